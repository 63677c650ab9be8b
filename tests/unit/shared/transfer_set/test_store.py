"""The store of transfer sets in a folder."""

import os
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.files import digest_of
from shared.artefacts.room import FULL
from shared.errors import Corrupt, FileNotInBundle, StoreFull, TransferSetNotFound
from shared.transfer_set.selection import select_rows
from shared.transfer_set.store import TransferSetStore
from shared.transfer_set.writer import TransferSetWriter
from tests.unit.shared.transfer_set.conftest import LinearTeacher, make_inputs, write_all

INPUTS = make_inputs()
OTHER = digest_of("another")


@pytest.fixture
def store(tmp_path: Path) -> TransferSetStore:
    return TransferSetStore(str(tmp_path / "sets"), tmp_path / "cache")


@pytest.fixture
def filled(store: TransferSetStore, digits: np.ndarray, teacher: LinearTeacher) -> TransferSetStore:
    """With one set of 300 rows in five shards."""
    write_all(writer_of(store, digits), teacher)
    return store


def writer_of(store: TransferSetStore, digits: np.ndarray) -> TransferSetWriter:
    selection = select_rows(INPUTS.spec, None, INPUTS.classes, images=len(digits))
    return store.writer(INPUTS, images=digits, selection=selection, known=store.known(INPUTS), shard_rows=64)


def test_a_store_that_nothing_was_put_into_is_empty(store: TransferSetStore, tmp_path: Path) -> None:
    assert store.digests() == []
    assert store.files(INPUTS.digest) == []
    assert store.size_bytes(INPUTS.digest) == 0
    assert not list(tmp_path.iterdir())


def test_a_finished_set_is_listed_and_read(filled: TransferSetStore) -> None:
    assert filled.digests() == [INPUTS.digest]
    assert filled.is_finished(INPUTS.digest)
    assert filled.manifest(INPUTS.digest).inputs == INPUTS
    assert [manifest.digest for manifest in filled.manifests()] == [INPUTS.digest]
    assert filled.open(INPUTS.digest).logits.shape == (3, 100, 10)


def test_a_file_url_names_a_folder(filled: TransferSetStore, tmp_path: Path) -> None:
    by_url = TransferSetStore(f"file://{tmp_path}/sets", tmp_path / "cache")
    assert by_url.digests() == [INPUTS.digest]


def test_a_set_that_is_not_finished_is_not_there_yet(
    store: TransferSetStore, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    writer = writer_of(store, digits)
    writer.write_shard(0, teacher(writer.batch(0).images))
    assert store.digests() == []
    with pytest.raises(TransferSetNotFound):
        store.open(INPUTS.digest)


@pytest.mark.parametrize("digest", [OTHER, "..", "../sets", "x" * 64, ""])
def test_what_is_no_set_is_not_found(filled: TransferSetStore, digest: str) -> None:
    assert not filled.is_finished(digest)
    for ask in (filled.manifest, filled.open, filled.delete):
        with pytest.raises(TransferSetNotFound):
            ask(digest)
    with pytest.raises(TransferSetNotFound):
        filled.file(digest, "manifest.json")


def test_a_set_of_an_older_format_is_passed_over(filled: TransferSetStore, tmp_path: Path) -> None:
    old = tmp_path / "sets" / OTHER
    old.mkdir()
    (old / "manifest.json").write_text('{"inputs": {"format": 2}}')
    with pytest.raises(TransferSetNotFound):
        filled.manifest(OTHER)
    assert [manifest.digest for manifest in filled.manifests()] == [INPUTS.digest]


def test_files_are_given_with_their_digest_compared(filled: TransferSetStore) -> None:
    shard = filled.file(INPUTS.digest, "shard-00001.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(Corrupt, match="shard-00001"):
        filled.file(INPUTS.digest, "shard-00001.safetensors")
    with pytest.raises(Corrupt, match="shard-00001"):
        filled.open(INPUTS.digest)


@pytest.mark.parametrize("name", ["nothing.json", "../manifest.json", ".hidden", "", "/etc/passwd"])
def test_a_file_that_the_set_lacks_is_named(filled: TransferSetStore, name: str) -> None:
    with pytest.raises(FileNotInBundle, match=r"manifest\.json|has no file"):
        filled.file(INPUTS.digest, name)


def test_files_beside_the_shards_come_and_are_replaced(filled: TransferSetStore) -> None:
    before = filled.size_bytes(INPUTS.digest)
    for data in (b"{}", b"{ }"):
        filled.put_file(INPUTS.digest, "summary.json", data)
        assert filled.file(INPUTS.digest, "summary.json").read_bytes() == data
    assert filled.size_bytes(INPUTS.digest) == before + 3
    assert "summary.json" in filled.files(INPUTS.digest)


@pytest.mark.parametrize("name", ["manifest.json", "shard-00000.safetensors", "../x", ".x"])
def test_only_the_writer_writes_shards_and_manifest(filled: TransferSetStore, name: str) -> None:
    with pytest.raises(ValueError, match=r"transfer set|writer"):
        filled.put_file(INPUTS.digest, name, b"")


def test_a_deleted_set_is_gone_and_can_be_built_again(
    filled: TransferSetStore, digits: np.ndarray, teacher: LinearTeacher, tmp_path: Path
) -> None:
    mapped = filled.open(INPUTS.digest)
    filled.delete(INPUTS.digest)
    assert filled.digests() == []
    assert not list((tmp_path / "sets").iterdir())
    assert mapped.logits.shape == (3, 100, 10)  # who reads it goes on
    write_all(writer_of(filled, digits), teacher)
    assert filled.digests() == [INPUTS.digest]


@pytest.mark.parametrize("number", sorted(FULL))
def test_a_store_that_is_full_is_named_and_keeps_what_it_has(
    number: int,
    store: TransferSetStore,
    digits: np.ndarray,
    teacher: LinearTeacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = writer_of(store, digits)
    writer.write_shard(0, teacher(writer.batch(0).images))

    def no_space(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("shared.artefacts.files.os.fsync", no_space)
    with pytest.raises(StoreFull, match="shard-00001") as refused:
        writer.write_shard(1, teacher(writer.batch(1).images))
    assert "Make room" in refused.value.remedy
    assert str(tmp_path) not in str(refused.value)
    monkeypatch.undo()
    assert writer_of(store, digits).missing_shards() == [1, 2, 3, 4]
