"""The idx format of MNIST."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from shared.datasets.idx import read_idx
from shared.errors import InvalidDataset
from tests.support.idx import idx_bytes as idx

ARRAY = np.arange(2 * 300 * 4, dtype=np.uint8).reshape(2, 300, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_arrays_are_read_with_their_shape(tmp_path: Path, pack: object) -> None:
    (tmp_path / "a").write_bytes(pack(idx(ARRAY)))  # type: ignore[operator]
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), ARRAY, strict=True)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an idx file"),
        (b"PK\3\4 and more", "not an idx file"),
        (idx(ARRAY, kind=13), "unsigned bytes"),
        (b"\0\0\x08\3\0\0", "cut short"),
        (idx(ARRAY)[:-1], "cut short"),
        (idx(ARRAY) + b"\0", "longer"),
        (b"\0\0\x08\3" + b"\xff" * 12, "claims"),
        (b"\0\0\x08\1" + b"\xef\xff\xff\xff" + bytes(100), "cut short"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path: Path, pack: object, data: bytes, words: str) -> None:
    (tmp_path / "a").write_bytes(pack(data))  # type: ignore[operator]
    with pytest.raises(InvalidDataset, match=rf"digits\.idx.*{words}"):
        read_idx(tmp_path / "a", file="digits.idx")


def test_gzip_files_cut_short_or_damaged_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(idx(ARRAY))
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for data in (whole[:3], whole[:-9], whole[:-1], bytes(damaged)):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(InvalidDataset, match="cut short or damaged"):
            read_idx(tmp_path / "a")


def test_what_unpacks_to_more_than_allowed_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(idx(np.zeros((1_000, 1_000), np.uint8))))
    with pytest.raises(InvalidDataset, match="1,000,000 bytes"):
        read_idx(tmp_path / "a", most_bytes=999_999)


def test_a_shape_of_nothing_times_very_much_is_refused(tmp_path: Path):
    path = tmp_path / "images"
    path.write_bytes(b"\0\0\x08\3" + bytes(4) + b"\xff" * 8)
    with pytest.raises(InvalidDataset, match="no array can have"):
        read_idx(path)


def test_an_array_that_is_packed_too_tightly_is_refused(tmp_path: Path):
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(b"\0\0\x08\1" + (2**22).to_bytes(4, "big") + bytes(2**22)))
    with pytest.raises(InvalidDataset, match="100 times"):
        read_idx(path)
