"""Arrays in safetensors files."""

import errno
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from shared.artefacts.tensors import read_tensors, tensors_of_bytes, tensors_to_bytes, write_tensors
from shared.errors import Corrupt

TENSORS = {
    "images": np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 1),
    "labels": np.array([3, -1]),
    "logits": np.array([[0.5, -0.5]], np.float16),
    "empty": np.zeros((0, 4), np.float32),
}


def test_files_are_what_safetensors_itself_reads(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", TENSORS)
    theirs = load_file(tmp_path / "a")
    assert {name: array.tolist() for name, array in theirs.items()} == {
        name: array.tolist() for name, array in TENSORS.items()
    }


def test_bytes_are_those_of_safetensors_itself_and_the_same_each_time() -> None:
    types = ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "i1", "<u8", "<u4", "<u2", "u1", "?")
    arrays = {f"{name}{n}": np.ones((3, n), name) for name in types for n in range(3)}
    assert tensors_to_bytes(arrays) == save(arrays)
    assert tensors_to_bytes({"big": np.arange(3, dtype=">i4")}) == save({"big": np.arange(3, dtype="<i4")})
    metadata = dict.fromkeys("abcdefgh", "said")
    backwards = dict(reversed(metadata.items()))
    assert tensors_to_bytes(arrays, metadata) == tensors_to_bytes(arrays, backwards)


def test_a_full_disk_is_an_error_of_the_system_that_says_so() -> None:
    with pytest.raises(OSError, match="No space left") as raised:
        write_tensors(Path("/dev/full"), TENSORS)
    assert raised.value.errno == errno.ENOSPC


def test_files_of_safetensors_itself_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a", metadata={"k": "v"})
    tensors, metadata = read_tensors(tmp_path / "a")
    assert metadata == {"k": "v"}
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], expected, strict=True)


def test_arrays_with_strides_are_written_as_they_look(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tensors_to_bytes({"x": np.arange(6).reshape(2, 3).T}))
    np.testing.assert_array_equal(read_tensors(tmp_path / "a")[0]["x"], [[0, 3], [1, 4], [2, 5]])


def test_arrays_are_views_that_may_be_written_without_changing_the_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", TENSORS)
    before = (tmp_path / "a").read_bytes()
    labels = read_tensors(tmp_path / "a")[0]["labels"]
    assert not labels.flags.owndata
    labels[:] = 7
    assert (tmp_path / "a").read_bytes() == before


def test_files_cut_short_at_any_byte_are_corrupt(tmp_path: Path) -> None:
    whole = tensors_to_bytes(TENSORS)
    for length in range(len(whole)):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(Corrupt):
            read_tensors(tmp_path / "a")


def test_trailing_bytes_are_corrupt(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tensors_to_bytes(TENSORS) + b"\0")
    with pytest.raises(Corrupt, match="a does not have"):
        read_tensors(tmp_path / "a")


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{not json",
        b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}',
        b'{"x":{"dtype":"NEW","shape":[1],"data_offsets":[0,4]}}',
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"x":1}',
        b'"words"',
        b"42",
        b"null",
        b'{"x":{"dtype":"F32","shape":[%d],"data_offsets":[0,4]}}' % 2**70,
        b'{"x":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}',
        b'{"__metadata__":"k","x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"x":' + b"[" * 100_000,
    ],
    ids=range(14),
)
def test_headers_that_lie_are_corrupt(tmp_path: Path, header: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(Corrupt):
        read_tensors(tmp_path / "a")
    with pytest.raises(Corrupt):
        tensors_of_bytes(data)
