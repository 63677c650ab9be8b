"""Rows are found by the hash of their key."""

import errno
from pathlib import Path

import numpy as np
import pytest

from shared.errors import StoreFull
from shared.transfer_set.key_index import KeyIndex, hash_keys


def keys_of(rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, 39), dtype=np.uint8)


@pytest.mark.parametrize("rows", [0, 1, 1000, 50_000])
def test_every_row_is_found_and_no_other(tmp_path: Path, rows: int) -> None:
    """50,000 rows come in pieces and fall into several buckets."""
    hashes = hash_keys(keys_of(rows + 500))
    pieces = [(begin, hashes[begin : min(begin + 8192, rows)]) for begin in range(0, rows, 8192)]
    index = KeyIndex(iter(pieces), rows, tmp_path)
    found, places = index.find(hashes)
    assert found.tolist() == rows * [True] + 500 * [False]
    np.testing.assert_array_equal(places[:rows], np.arange(rows))


def test_rows_that_were_left_out_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    hashes = hash_keys(keys_of(300))
    index = KeyIndex(iter([(0, hashes[:100]), (200, hashes[200:])]), 300, tmp_path)
    found, places = index.find(hashes)
    assert np.flatnonzero(~found).tolist() == list(range(100, 200))
    np.testing.assert_array_equal(places[found], np.flatnonzero(found))


def test_a_hash_depends_on_every_byte_of_a_key() -> None:
    key = keys_of(1)
    others = np.repeat(key, 39, axis=0)
    others[np.arange(39), np.arange(39)] ^= 1
    hashes = hash_keys(np.concatenate([key, others]))
    assert len(set(hashes.tolist())) == 40
    # Half of all bits change, give or take.
    changed = np.bitwise_count(hashes[1:] ^ hashes[0])
    assert 28 < changed.mean() < 36


def test_hashes_are_the_same_everywhere() -> None:
    """By hand, in Python's integers."""
    mask = (1 << 64) - 1
    hashed = 0
    for word in (0x0706050403020100, 0x0908):
        hashed = ((hashed ^ word) + 0x9E3779B97F4A7C15) & mask
        hashed = ((hashed ^ hashed >> 30) * 0xBF58476D1CE4E5B9) & mask
        hashed = ((hashed ^ hashed >> 27) * 0x94D049BB133111EB) & mask
        hashed ^= hashed >> 31
    assert hash_keys(np.arange(10, dtype=np.uint8)[np.newaxis]).tolist() == [hashed]


def test_a_disk_that_is_full_is_an_error_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", no_space)
    with pytest.raises(StoreFull, match="keys"):
        KeyIndex(iter([(0, hash_keys(keys_of(10)))]), 10, tmp_path)
    assert list(tmp_path.iterdir()) == []
