"""Reads Parquet as the Hugging Face hub lays images out: encoded images and labels, a row an example.

The images are a column of struct{bytes, path} or of binary; labels are whole numbers whose names stand in the
schema's metadata (`huggingface`, ClassLabel), whole numbers without names, or strings. A label that is null,
or -1 where it has names, is none: so the hub writes test labels that are kept secret.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from shared.datasets.assemble import Example
from shared.datasets.limits import UploadLimits
from shared.errors import InvalidDataset

PARQUET_MAGIC: Final = b"PAR1"

_SPLIT = re.compile(r"(?:^|[^a-z])(train|validation|valid|val|test)(?:[^a-z]|$)")
_ROWS_AT_ONCE: Final = 32
_IMAGE_NAMES: Final = ("image", "img", "picture")
_LABEL_NAMES: Final = ("label", "labels", "class", "target")


@dataclass(frozen=True)
class _Columns:
    """Which columns hold images and labels; `names` are the class names that the metadata states."""

    image: str
    label: str | None
    names: tuple[str, ...] | None


class ParquetFiles:
    """The Parquet files of one upload."""

    def __init__(self, files: Sequence[tuple[Path, str]], limits: UploadLimits) -> None:
        """Open the files and check what their footers say.

        Raises:
            InvalidDataset: not Parquet, damaged, over a limit, without images, or with other classes in each.
        """
        self._limits = limits
        self._files: list[tuple[pq.ParquetFile, str, _Columns]] = []
        rows = size_bytes = 0
        for path, name in files:
            file = _open(path, name)
            rows += file.metadata.num_rows
            groups = range(file.metadata.num_row_groups)
            size_bytes += sum(file.metadata.row_group(group).total_byte_size for group in groups)
            self._files.append((file, name, _columns(file.schema_arrow, name)))
        if rows > limits.members:
            raise InvalidDataset(f"the files have {rows:,} rows, {limits.members:,} are allowed")
        _check_bytes(size_bytes, limits)
        stated = {columns.names for _, _, columns in self._files}
        if len(stated) > 1:
            raise InvalidDataset("the Parquet files state different class names")
        self.classes: tuple[str, ...] | None = stated.pop()
        """Class names in order, where the metadata states them."""

    def examples(self) -> Iterator[Example]:
        """Yield the rows of all files, in order.

        Raises:
            InvalidDataset: a page is damaged, an image has no bytes, a label is out of range.
        """
        size_bytes = 0
        for file, name, columns in self._files:
            split = _split_of(name)
            for row, image, label in _rows(file, name, columns):
                where = f"{name}, row {row}"
                data = image.get("bytes") if isinstance(image, dict) else image
                if not isinstance(data, bytes):
                    raise InvalidDataset(f"{where}: the image has no bytes")
                size_bytes += len(data)
                _check_bytes(size_bytes, self._limits)
                yield Example(split, _label_name(label, columns.names, where), data, where)


def _open(path: Path, name: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidDataset(f"{name} is no Parquet file, or it is damaged") from error


def _rows(file: pq.ParquetFile, name: str, columns: _Columns) -> Iterator[tuple[int, Any, Any]]:
    wanted = [columns.image] if columns.label is None else [columns.image, columns.label]
    row = 0
    try:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted, use_threads=False):
            images = batch.column(columns.image)
            labels = None if columns.label is None else batch.column(columns.label)
            for i in range(batch.num_rows):
                yield row, images[i].as_py(), None if labels is None else labels[i].as_py()
                row += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, MemoryError):
            raise
        raise InvalidDataset(f"{name} is damaged after row {row}") from error


def _check_bytes(size_bytes: int, limits: UploadLimits) -> None:
    if size_bytes > limits.unpacked_bytes:
        raise InvalidDataset(f"the files unpack to more than {limits.unpacked_bytes:,} bytes")


def _split_of(name: str) -> str:
    found = _SPLIT.findall(name.lower())
    word = found[-1] if found else "train"
    return "validation" if word.startswith("val") else str(word)


# --- which columns -----------------------------------------------------------------------------------------


def _columns(schema: pa.Schema, name: str) -> _Columns:
    features = _features(schema, name)
    images = [field.name for field in schema if _holds_images(field.type)]
    declared = [column for column in images if features.get(column, {}).get("_type") == "Image"]
    image = _choose(declared or images, _IMAGE_NAMES)
    if image is None:
        found = f"columns with images: {', '.join(images) or 'none'}"
        raise InvalidDataset(f"{name} should have one column of images, named 'image'; {found}")
    labels = [field.name for field in schema if _holds_labels(field.type)]
    declared = [column for column in labels if features.get(column, {}).get("_type") == "ClassLabel"]
    named = [column for column in labels if column in _LABEL_NAMES]
    label = _choose(declared or named, _LABEL_NAMES)
    if label is None and (declared or named):
        raise InvalidDataset(f"{name} has several columns of labels, none of them named 'label'")
    names = features.get(label, {}).get("names") if label is not None else None
    if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
        raise InvalidDataset(f"{name} states class names that are no list of strings")
    return _Columns(image, label, None if names is None else tuple(names))


def _choose(columns: list[str], preferred: tuple[str, ...]) -> str | None:
    if len(columns) == 1:
        return columns[0]
    return next((name for name in preferred if name in columns), None)


def _features(schema: pa.Schema, name: str) -> dict[str, dict[str, Any]]:
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        features = json.loads(text)["info"]["features"]
        return {column: feature for column, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidDataset(f"{name} has metadata of the hub that cannot be read") from error


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_labels(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _label_name(label: int | str | None, names: tuple[str, ...] | None, where: str) -> str | None:
    if label is None or (names is not None and label == -1):
        return None
    if names is None or isinstance(label, str):
        return str(label)
    if not 0 <= label < len(names):
        raise InvalidDataset(f"{where}: label {label} is none of the {len(names)} classes")
    return names[label]
