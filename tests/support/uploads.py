"""Makes uploads from real digits: zips, idx files, Parquet in the layout of the hub."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Digits = list[tuple[np.ndarray, int]]


def encode(pixels: np.ndarray | Image.Image, format: str = "PNG", **options: object) -> bytes:
    """Return an encoded image; arrays are H x W or H x W x C."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.squeeze(pixels))
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def write_zip(path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """Write a zip with these members; pairs may name a member twice."""
    pairs = members.items() if isinstance(members, Mapping) else members
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in pairs:
            archive.writestr(name, data)
    return path


def folders_of(digits: Digits, prefix: str = "") -> dict[str, bytes]:
    """Return PNGs in a folder a digit."""
    return {f"{prefix}{label}/{i:04d}.png": encode(pixels) for i, (pixels, label) in enumerate(digits)}


def write_parquet(
    path: Path, digits: Digits, *, names: list[str] | None = None, column: str = "label", plain: bool = False
) -> Path:
    """Write images as the hub does: struct{bytes, path}, ClassLabel names in the schema's metadata."""
    data = [encode(pixels) for pixels, _ in digits]
    if plain:
        images = pa.array(data, pa.binary())
    else:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = pa.array([{"bytes": one, "path": None} for one in data], kind)
    table = pa.table({"image": images, column: pa.array([label for _, label in digits], pa.int64())})
    if names is not None:
        features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({b"huggingface": text.encode()})
    pq.write_table(table, path)
    return path
