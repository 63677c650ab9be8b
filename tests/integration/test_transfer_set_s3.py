"""Transfer sets in S3: moto's server in this process, s3fs as the client."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from shared.errors import Corrupt, TransferSetNotFound, TransferSetsUnavailable
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.selection import select_rows
from shared.transfer_set.store import TransferSetStore
from shared.transfer_set.writer import TransferSetWriter
from tests.unit.shared.transfer_set.conftest import LinearTeacher, make_inputs, write_all

pytestmark = pytest.mark.integration

ROWS = 100
URL = "s3://bucket/some/sets"
INPUTS = make_inputs()
IMAGES = np.random.default_rng(0).integers(0, 256, (ROWS, 28, 28, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def client() -> Iterator[fsspec.AbstractFileSystem]:
    """A server, and a client; the environment says to all others where it is, and who they are."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "somebody")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield fsspec.filesystem("s3", use_listings_cache=False)
    server.stop()


@pytest.fixture
def s3(client: fsspec.AbstractFileSystem) -> Iterator[fsspec.AbstractFileSystem]:
    """An empty bucket."""
    client.mkdir("bucket")
    yield client
    client.rm("bucket", recursive=True)


def store_of(machine: Path) -> TransferSetStore:
    """Return the store as a machine with a disk of its own sees it."""
    return TransferSetStore(URL, machine / "cache")


def writer_of(store: TransferSetStore, **changes: object) -> TransferSetWriter:
    inputs = make_inputs(**changes)
    selection = select_rows(inputs.spec, None, inputs.classes, images=ROWS)
    return store.writer(inputs, images=IMAGES, selection=selection, known=store.known(inputs), shard_rows=64)


def objects(s3: fsspec.AbstractFileSystem) -> dict[str, str]:
    """Return the name and digest of every object in the bucket."""
    return {path: hashlib.sha256(s3.cat_file(path)).hexdigest() for path in s3.find("bucket")}


@pytest.fixture
def filled(s3: fsspec.AbstractFileSystem, tmp_path: Path) -> LinearTeacher:
    """A set that one machine has built."""
    teacher = LinearTeacher()
    write_all(writer_of(store_of(tmp_path / "one")), teacher)
    return teacher


def test_what_one_machine_builds_another_reads(
    filled: LinearTeacher, s3: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    folder = f"bucket/some/sets/{INPUTS.digest}"
    shards = [f"shard-0000{number}.safetensors" for number in range(5)]
    assert list(objects(s3)) == [f"{folder}/{name}" for name in ["manifest.json", *shards]]
    other = store_of(tmp_path / "two")
    assert other.digests() == [INPUTS.digest]
    assert other.size_bytes(INPUTS.digest) == s3.du(folder)
    ours, theirs = store_of(tmp_path / "one").open(INPUTS.digest), other.open(INPUTS.digest)
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    # The copies are files of the format: whoever likes reads the folder.
    cached = TransferSet.open(tmp_path / "two" / "cache" / INPUTS.digest)
    np.testing.assert_array_equal(cached.logits, theirs.logits)


def test_a_shard_is_fetched_once(
    filled: LinearTeacher, s3: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = store_of(tmp_path / "two")
    other.open(INPUTS.digest)
    copies = tmp_path / "two" / "cache" / INPUTS.digest
    before = {path.name: path.stat().st_ino for path in copies.glob("shard-*")}
    other.open(INPUTS.digest)
    assert {path.name: path.stat().st_ino for path in copies.glob("shard-*")} == before
    assert len(before) == 5


def test_a_copy_that_is_damaged_is_fetched_again(filled: LinearTeacher, tmp_path: Path) -> None:
    store = store_of(tmp_path / "one")
    (tmp_path / "one" / "cache" / INPUTS.digest / "shard-00003.safetensors").write_bytes(b"half")
    assert store.open(INPUTS.digest).logits.shape == (3, 100, 10)


def test_a_shard_that_is_damaged_there_is_named_rebuilt_and_reported(
    filled: LinearTeacher, s3: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    path = f"bucket/some/sets/{INPUTS.digest}/shard-00003.safetensors"
    data = bytearray(s3.cat_file(path))
    data[-1] ^= 1
    s3.pipe_file(path, bytes(data))
    other = store_of(tmp_path / "two")
    with pytest.raises(Corrupt, match="shard-00003"):
        other.open(INPUTS.digest)
    filled.rows = 0
    writer = writer_of(other)
    write_all(writer, filled)
    assert writer.rebuilt == ["shard-00003.safetensors"]
    assert filled.rows == 64
    assert store_of(tmp_path / "three").open(INPUTS.digest).logits.shape == (3, 100, 10)


def test_a_writer_on_another_machine_goes_on_at_the_shard(
    s3: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    teacher = LinearTeacher()
    writer = writer_of(store_of(tmp_path / "one"))
    for number in (0, 3):
        writer.write_shard(number, teacher(writer.batch(number).images))
    assert store_of(tmp_path / "two").digests() == []
    resumed = writer_of(store_of(tmp_path / "two"))
    assert resumed.missing_shards() == [1, 2, 4]
    write_all(resumed, teacher)
    assert teacher.rows == 300


def test_the_first_of_two_writers_wins(filled: LinearTeacher, s3: fsspec.AbstractFileSystem, tmp_path: Path):
    before = objects(s3)
    late = writer_of(store_of(tmp_path / "two"))
    late.write_shard(1, filled(late.batch(1).images) + np.eye(64, 10))
    assert objects(s3) == before
    late.finish()
    assert objects(s3) == before


def test_what_one_set_knows_another_does_not_ask(
    filled: LinearTeacher, s3: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    filled.rows = 0
    part = INPUTS.spec.model_copy(update={"views": 2})
    write_all(writer_of(store_of(tmp_path / "two"), spec=part), filled)
    assert filled.rows == 0


def test_files_beside_the_shards_come_and_go_with_the_set(
    filled: LinearTeacher, s3: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    store, other = store_of(tmp_path / "one"), store_of(tmp_path / "two")
    for data in (b"{}", b"{ }"):
        store.put_file(INPUTS.digest, "summary.json", data)
        assert other.file(INPUTS.digest, "summary.json").read_bytes() == data
    other.delete(INPUTS.digest)
    assert objects(s3) == {}
    assert not (tmp_path / "two" / "cache" / INPUTS.digest).exists()
    with pytest.raises(TransferSetNotFound):
        store.manifest(INPUTS.digest)


def test_a_bucket_that_is_not_there_is_named(s3: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    store = TransferSetStore("s3://nobodys/sets", tmp_path)
    assert store.digests() == []
    selection = select_rows(INPUTS.spec, None, INPUTS.classes, images=ROWS)
    writer = store.writer(INPUTS, images=IMAGES, selection=selection)
    with pytest.raises(TransferSetsUnavailable, match="s3://nobodys/sets") as refused:
        writer.write_shard(0, np.zeros((300, 10), np.float32))
    assert "IMAGO_TRANSFER_SETS_URL" in refused.value.remedy
