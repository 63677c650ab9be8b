"""Finds a row among millions by its key, in a sorted file and not in memory.

Keys come down to 64 bits. Two that come down to the same are taken for each other here, so whoever finds a
row compares its whole key.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.transfer_set.places import room_for

_BUCKET_ROWS: Final = 16_384


class KeyIndex:
    """Numbers of rows, ordered by the hash of their key: 16 bytes a row in a file that has no name.

    The file is mapped, so the memory it takes is the kernel's to give back; it ends with the process.
    """

    def __init__(self, hashes: Iterator[tuple[int, NDArray[np.uint64]]], most: int, folder: Path) -> None:
        """Sort the rows.

        Args:
            hashes: of rows that follow each other, with the number of the first; in all no more than `most`.
            most: rows that there may be.
            folder: where the file is made.

        Raises:
            StoreFull: the file does not fit.
        """
        drawn, rows, count = _file(most, np.uint64, folder), _file(most, np.int64, folder), 0
        for first, part in hashes:
            here = slice(count, count + len(part))
            drawn[here], rows[here] = part, np.arange(first, first + len(part))
            count += len(part)
        self._hashes, self._rows = _file(count, np.uint64, folder), _file(count, np.int64, folder)
        # Hashes are spread evenly: by their first bits they fall into buckets that are sorted one by one.
        bits = max(0, (count // _BUCKET_ROWS).bit_length())
        shift = np.uint64(64 - bits)
        sizes = np.zeros(1 << bits, np.int64)
        for here in _pieces(count):
            sizes += np.bincount(_bucket(drawn[here], shift, bits), minlength=1 << bits)
        begins = np.concatenate([[0], np.cumsum(sizes)])
        filled = begins[:-1].copy()
        for here in _pieces(count):
            buckets = _bucket(drawn[here], shift, bits)
            order = np.argsort(buckets, kind="stable")
            present, starts, counts = np.unique(buckets[order], return_index=True, return_counts=True)
            # The i-th of a bucket's rows in this piece goes i places after those that are there.
            places = np.arange(len(order)) - np.repeat(starts, counts) + np.repeat(filled[present], counts)
            self._hashes[places], self._rows[places] = drawn[here][order], rows[here][order]
            filled[present] += counts
        for bucket in range(1 << bits):
            here = slice(begins[bucket], begins[bucket + 1])
            order = np.argsort(self._hashes[here], kind="stable")
            self._hashes[here], self._rows[here] = self._hashes[here][order], self._rows[here][order]

    def find(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which of these hashes are there, and a row of each (of those that are not, any)."""
        if not len(self._hashes):
            return np.zeros(len(hashes), np.bool_), np.zeros(len(hashes), np.int64)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return self._hashes[places] == hashes, self._rows[places]


def hash_keys(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return 64 bits of each key, n x bytes: the same on every machine, and spread evenly."""
    padded = np.zeros((len(keys), -(-keys.shape[1] // 8) * 8), np.uint8)
    padded[:, : keys.shape[1]] = keys
    hashed = np.zeros(len(keys), np.uint64)
    for word in padded.view("<u8").T:
        # A step of splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
        hashed = (hashed ^ word) + np.uint64(0x9E3779B97F4A7C15)
        hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashed ^= hashed >> np.uint64(31)
    return hashed


def _file(rows: int, dtype: type[Any], folder: Path) -> NDArray[Any]:
    """Return an array in a file without a name."""
    if not rows:
        return np.empty(0, dtype)
    with room_for(folder / "keys"), tempfile.TemporaryFile(dir=folder) as file:
        # All of it now: a page that does not fit later is no error but the end of the process (SIGBUS).
        os.posix_fallocate(file.fileno(), 0, rows * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, "r+", shape=(rows,))


def _bucket(hashes: NDArray[np.uint64], shift: np.uint64, bits: int) -> NDArray[np.int64]:
    return (hashes >> shift).astype(np.int64) if bits else np.zeros(len(hashes), np.int64)


def _pieces(rows: int) -> Iterator[slice]:
    return (slice(begin, min(begin + _BUCKET_ROWS, rows)) for begin in range(0, rows, _BUCKET_ROWS))
