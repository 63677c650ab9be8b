import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from shared.artefacts.model_archives import unpack_model
from shared.errors import BodyTooLarge, InvalidModelFiles, PickleRefused

WEIGHTS = save({"w": np.zeros(1000, np.float32)})


def zipped(files: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def unpack(tmp_path: Path, data: bytes, most_bytes: int = 10**7) -> dict[str, bytes]:
    archive, directory = tmp_path / "upload.zip", tmp_path / "into"
    archive.write_bytes(data)
    directory.mkdir()
    return {
        path.name: path.read_bytes() for path in unpack_model(archive, directory, "transformers", most_bytes)
    }


@pytest.mark.parametrize("folder", ["", "vit/", "./a b/c/"])
def test_files_come_out_of_the_one_folder_that_holds_them(tmp_path: Path, folder: str):
    found = unpack(tmp_path, zipped({f"{folder}config.json": b"{}", f"{folder}model.safetensors": WEIGHTS}))
    assert found == {"config.json": b"{}", "model.safetensors": WEIGHTS}
    assert {path.name for path in tmp_path.rglob("*")} == {"upload.zip", "into", *found}


def link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("config.json")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return out.getvalue()


def moved() -> bytes:
    """A zip whose members lie before its first byte, by its own directory."""
    whole = zipped({"config.json": b"{}"})
    place = int.from_bytes(whole[-6:-2], "little") + 1000
    return whole[:-6] + place.to_bytes(4, "little") + whole[-2:]


# A name ends at its first zero byte: one that begins with it is empty.
BAD = {
    "members before its beginning": (moved(), InvalidModelFiles),
    "a member without a name": (
        zipped({"config.json": b"{}"}).replace(b"config.json", b"\0onfig.json"),
        InvalidModelFiles,
    ),
    "no zip": (b"words", InvalidModelFiles),
    "cut short": (zipped({"config.json": b"{}" * 1000})[:-30], InvalidModelFiles),
    "a pickle inside": (zipped({"pytorch_model.bin": b"x"}), PickleRefused),
    "what torch.save writes": (zipped({"archive/data.pkl": b"x", "archive/data/0": b"x"}), PickleRefused),
    "another file": (zipped({"config.json": b"{}", "modeling.py": b"import os"}), InvalidModelFiles),
    "a name in two folders": (zipped({"a/config.json": b"{}", "b/config.json": b"{}"}), InvalidModelFiles),
    "a link": (link(), InvalidModelFiles),
    "another packing": (zipped({"config.json": b"{}" * 99}, zipfile.ZIP_BZIP2), InvalidModelFiles),
    "a way out": (zipped({"../../up/config.json": b"{}"}), InvalidModelFiles),
    "a bomb": (zipped({"model.safetensors": bytes(3 * 2**20)}), InvalidModelFiles),
    "a directory of a million": (zipped({f"{i:0500}": b"" for i in range(3_000)}), InvalidModelFiles),
    "too many members": (zipped({f"{i}.json": b"{}" for i in range(300)}), InvalidModelFiles),
}


@pytest.mark.parametrize("case", BAD)
def test_archives_that_are_no_model_are_refused(tmp_path: Path, case: str):
    data, error = BAD[case]
    with pytest.raises(error):
        unpack(tmp_path, data)


def test_what_is_unpacked_is_counted_over_all_files(tmp_path: Path):
    with pytest.raises(BodyTooLarge):
        unpack(tmp_path, zipped({"config.json": b"{}", "model.safetensors": WEIGHTS}), len(WEIGHTS) + 1)
    assert sum(path.stat().st_size for path in (tmp_path / "into").iterdir()) <= len(WEIGHTS) + 1
