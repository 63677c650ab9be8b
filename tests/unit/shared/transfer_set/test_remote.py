"""Transfer sets at a URL: what differs from a folder. S3: tests/integration/test_transfer_set_s3.py."""

import errno
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from shared.errors import ExtraMissing, StoreFull, TransferSetsUnavailable
from shared.transfer_set.remote import Remote
from shared.transfer_set.selection import select_rows
from shared.transfer_set.store import TransferSetStore
from tests.unit.shared.transfer_set.conftest import LinearTeacher, make_inputs, write_all

INPUTS = make_inputs()


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    there = fsspec.filesystem("memory")
    yield there
    there.store.clear()
    there.pseudo_dirs[:] = [""]


@pytest.fixture
def remote(memory: MemoryFileSystem, tmp_path: Path) -> Remote:
    return Remote("memory://sets", tmp_path)


def test_a_store_at_a_url_does_what_one_in_a_folder_does(
    memory: MemoryFileSystem, tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    store = TransferSetStore("memory://some/sets/", tmp_path / "one")
    assert store.digests() == []
    selection = select_rows(INPUTS.spec, None, INPUTS.classes, images=len(digits))
    write_all(store.writer(INPUTS, images=digits, selection=selection, shard_rows=64), teacher)
    other = TransferSetStore("memory://some/sets", tmp_path / "two")
    assert other.digests() == [INPUTS.digest]
    np.testing.assert_array_equal(other.open(INPUTS.digest).logits, store.open(INPUTS.digest).logits)
    assert other.size_bytes(INPUTS.digest) == memory.du("/some/sets")
    other.delete(INPUTS.digest)
    assert store.digests() == []
    assert memory.find("/some") == []


def test_a_file_is_created_once(remote: Remote) -> None:
    assert remote.create("a", "x", b"first")
    assert not remote.create("a", "x", b"second")
    assert remote.read("a", "x") == b"first"


@pytest.mark.parametrize(
    "answer",
    [
        OSError(errno.EIO, "An error occurred (NotImplemented) when calling PutObject"),
        NotImplementedError(),
        TypeError("unexpected keyword argument 'mode'"),
    ],
)
def test_where_the_server_cannot_refuse_it_is_looked_first(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, answer: Exception
) -> None:
    pipe = MemoryFileSystem.pipe_file

    def unconditional(self: MemoryFileSystem, path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise answer
        pipe(self, path, value)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", unconditional)
    test_a_file_is_created_once(remote)


def test_of_two_writers_at_the_same_time_one_is_told_to_look(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conflict(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "An error occurred (ConditionalRequestConflict) when calling PutObject")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", conflict)
    assert not remote.create("a", "x", b"")


@pytest.mark.parametrize("code", ["XMinioStorageFull", "QuotaExceeded"])
def test_a_server_that_is_full_is_a_full_store(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, f"An error occurred ({code}) when calling PutObject")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", full)
    for put in (remote.create, remote.write):
        with pytest.raises(StoreFull, match="a/x"):
            put("a", "x", b"")


def test_a_server_that_does_not_answer_is_named(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("nobody listens")

    monkeypatch.setattr(MemoryFileSystem, "ls", silent)
    with pytest.raises(TransferSetsUnavailable, match="memory://sets cannot be reached: nobody listens"):
        remote.digests()


def test_whoever_can_wait_asks_a_server_that_is_away_again_in_waits_that_grow(
    memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    pipe = MemoryFileSystem.pipe_file

    def away(self: MemoryFileSystem, path: str, value: bytes, mode: str = "overwrite") -> None:
        if len(waited) < 6:
            raise ConnectionResetError("gone for a while")
        pipe(self, path, value, mode=mode)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", away)
    patient = Remote("memory://sets", tmp_path, waited.append)
    assert patient.create("a", "x", b"put in the end")
    assert waited == [0.5, 1, 2, 4, 8, 8]
    assert patient.read("a", "x") == b"put in the end"
    waited.clear()
    monkeypatch.setattr("shared.transfer_set.remote.PATIENCE_S", -1.0)
    with pytest.raises(TransferSetsUnavailable, match="gone for a while") as told:
        patient.create("a", "y", b"")
    assert not told.value.refused


def test_what_is_refused_is_not_asked_for_again(
    memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(MemoryFileSystem, "ls", forbidden)
    waited: list[float] = []
    with pytest.raises(TransferSetsUnavailable, match="not yours") as answered:
        Remote("memory://sets", tmp_path, waited.append).digests()
    assert answered.value.refused
    assert waited == []


def test_a_place_that_nothing_reaches_is_named(tmp_path: Path) -> None:
    with pytest.raises(TransferSetsUnavailable, match="carrier-pigeon"):
        TransferSetStore("carrier-pigeon://loft", tmp_path).digests()


def test_a_library_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.import_module

    def without(name: str, package: str | None = None) -> ModuleType:
        if name == "fsspec":
            raise ModuleNotFoundError("No module named 'fsspec'")
        return there(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ExtraMissing) as refused:
        TransferSetStore("s3://bucket/sets", tmp_path).digests()
    assert "imago[worker,s3]" in refused.value.remedy
