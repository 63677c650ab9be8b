"""Reads idx files, the format of MNIST: http://yann.lecun.com/exdb/mnist/, plain or compressed with gzip."""

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidDataset

GZIP_MAGIC: Final = b"\x1f\x8b"
_UNSIGNED_BYTE = 8
_RATIO: Final = 100
"""Largest quotient of unpacked and packed size; MNIST shrinks to a fifth, its labels to a half."""
_SMALL_BYTES: Final = 1 << 20
"""Which may be packed as tightly as they like: the labels of a few rows."""


def read_idx(path: Path, *, file: str | None = None, most_bytes: int = 4 << 30) -> NDArray[np.uint8]:
    """Return the array of an idx file of unsigned bytes.

    Args:
        path: the file, plain or gzip.
        file: the name that errors mention; the path's own if None.
        most_bytes: the largest array taken; what the header claims is checked before anything is read.

    Raises:
        InvalidDataset: not an idx file of unsigned bytes, cut short, too long, too large, or packed more
            tightly than images can be.
    """
    name = file or path.name
    with path.open("rb") as raw:
        compressed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        most_unpacked = max(_SMALL_BYTES, _RATIO * path.stat().st_size)
        with gzip.GzipFile(fileobj=raw) if compressed else io.BufferedReader(raw) as stream:
            try:
                return _read(stream, name, most_bytes, most_unpacked)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise InvalidDataset(f"{name} is cut short or damaged") from error


def _read(
    stream: BinaryIO | gzip.GzipFile, name: str, most_bytes: int, most_unpacked: int
) -> NDArray[np.uint8]:
    magic = stream.read(4)
    if len(magic) != 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= 4:
        raise InvalidDataset(f"{name} is not an idx file")
    if magic[2] != _UNSIGNED_BYTE:
        raise InvalidDataset(f"{name} holds no unsigned bytes: its type is 0x{magic[2]:02x}")
    sizes = stream.read(4 * magic[3])
    if len(sizes) != 4 * magic[3]:
        raise EOFError
    shape = tuple(int(length) for length in np.frombuffer(sizes, ">u4"))
    size_bytes = math.prod(shape)
    if size_bytes > most_bytes:
        raise InvalidDataset(f"{name} claims {size_bytes:,} bytes, {most_bytes:,} are allowed")
    data = _read_exactly(stream, min(size_bytes, most_unpacked))
    if size_bytes > most_unpacked:
        raise InvalidDataset(f"{name} unpacks to more than {_RATIO} times its size")
    if stream.read(1):
        raise InvalidDataset(f"{name} is longer than its header says")
    try:
        return np.frombuffer(data, np.uint8).reshape(shape)
    except ValueError as error:  # none of something that no memory could hold
        raise InvalidDataset(f"{name} claims a shape that no array can have: {list(shape)}") from error


def _read_exactly(stream: BinaryIO | gzip.GzipFile, size_bytes: int) -> bytearray:
    # In pieces: memory grows with what is really there, not with what the header claims.
    data = bytearray()
    while len(data) < size_bytes:
        piece = stream.read(min(1 << 20, size_bytes - len(data)))
        if not piece:
            raise EOFError
        data += piece
    return data
