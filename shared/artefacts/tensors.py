"""Arrays in safetensors files: written whole, read as views on the mapped file."""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import Corrupt

Array = NDArray[Any]

_DTYPES: dict[str, np.dtype[Any]] = {
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F16": np.dtype("<f2"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""In the order in which safetensors lays tensors out, each type aligned; those of one type by name."""
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LARGEST_HEADER_BYTES = 1 << 24
"""About 100 bytes a tensor: a hundred specialists of a deep net have tens of thousands."""
_WRONG = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What a header raises that is no object of objects, has numbers beyond 64 bits, or is too deep."""


def write_tensors(path: Path, tensors: Mapping[str, Array], metadata: dict[str, str] | None = None) -> None:
    """Write arrays to a new safetensors file without copying them. Not atomic: write into a folder aside.

    Raises:
        OSError: the disk is full, or does not answer. safetensors' own `save_file` has another error for it,
            which does not tell the one from the other.
    """
    with path.open("wb") as file:
        for piece in _pieces(tensors, metadata):
            file.write(piece)


def tensors_to_bytes(tensors: Mapping[str, Array], metadata: dict[str, str] | None = None) -> bytes:
    """Return the safetensors file of some arrays as bytes, for `write_atomic` and for HTTP bodies.

    The same arrays and metadata give the same bytes, whoever writes them; safetensors' own `save` puts
    metadata in another order each time.
    """
    return b"".join(_pieces(tensors, metadata))


def _pieces(tensors: Mapping[str, Array], metadata: dict[str, str] | None) -> list[bytes | memoryview]:
    """Return what a safetensors file consists of: the length of its header, the header, each array."""
    types = list(_DTYPES)
    arrays = [(_NAMES[array.dtype], name, array) for name, array in _contiguous(tensors).items()]
    arrays.sort(key=lambda one: (types.index(one[0]), one[1]))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for dtype, name, array in arrays:
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *(array.data for _, _, array in arrays)]


def read_tensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays of a safetensors file, and its metadata.

    The arrays are views on the file, which is mapped copy-on-write: nothing is read until it is touched, and
    what a caller writes into an array never reaches the file. A file must not shrink while it is mapped; ours
    never change once they have their name.

    Raises:
        FileNotFoundError: there is no such file.
        Corrupt: the file is cut short, too long, or its header does not describe it.
    """
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except ValueError as error:  # an empty file cannot be mapped
            raise Corrupt(str(path)) from error
    try:
        return _views(mapped)
    except _WRONG as error:
        raise Corrupt(str(path)) from error


def tensors_of_bytes(data: bytes) -> dict[str, Array]:
    """Return the arrays of a safetensors file that is in memory, as read-only views on it.

    Raises:
        Corrupt: it is cut short, too long, or its header does not describe it.
    """
    try:
        return _views(data)[0]
    except _WRONG as error:
        raise Corrupt("a safetensors file in memory") from error


def _views(mapped: mmap.mmap | bytes) -> tuple[dict[str, Array], dict[str, str]]:
    header_bytes = int.from_bytes(mapped[:8], "little")
    if not 2 <= header_bytes <= min(_LARGEST_HEADER_BYTES, len(mapped) - 8):
        raise ValueError("the header is longer than the file")
    header = json.loads(mapped[8 : 8 + header_bytes])
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise TypeError("the metadata are no object")
    tensors: dict[str, Array] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype = _DTYPES[entry["dtype"]]
        shape = tuple(int(length) for length in entry["shape"])
        begin, stop = entry["data_offsets"]
        count = int(np.prod(shape, dtype=np.int64))
        if begin != end or stop - begin != count * dtype.itemsize or min(shape, default=0) < 0:
            raise ValueError(f"{name} is not where the header says")
        end = stop
        tensors[name] = np.frombuffer(mapped, dtype, count, 8 + header_bytes + begin).reshape(shape)
    if 8 + header_bytes + end != len(mapped):
        raise ValueError("the file is longer or shorter than its header says")
    return tensors, metadata


def _contiguous(tensors: Mapping[str, Array]) -> dict[str, Array]:
    # The memory behind the array is written, in which strides and the order of bytes do not show.
    return {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in tensors.items()
    }
