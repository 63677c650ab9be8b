"""Reading an upload in a process of its own."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from shared.artefacts.store import ArtefactStore
from shared.datasets.ingest import IngestFile, IngestOrder, error_of, ingest, ingest_in_child, problem_of
from shared.errors import (
    DatasetExists,
    DistillationError,
    ImageTooLarge,
    InvalidDataset,
    InvalidImage,
    StoreFull,
)
from tests.support.idx import idx_bytes
from tests.support.uploads import Digits, encode, folders_of, write_parquet, write_zip

MEMORY = 1 << 30


@pytest.fixture
def order(tmp_path: Path, digits: Digits) -> IngestOrder:
    path = write_zip(tmp_path / "upload", folders_of(digits))
    return IngestOrder(
        store=tmp_path / "store", name="mine", files=(IngestFile(path=path, name="digits.zip"),)
    )


def with_file(order: IngestOrder, path: Path) -> IngestOrder:
    return order.model_copy(update={"files": (IngestFile(path=path, name=path.name),)})


def test_an_upload_is_read_and_stored(order: IngestOrder) -> None:
    manifest = ingest(order)
    assert ArtefactStore(order.store).datasets.get("mine") == manifest
    assert manifest.counts.model_dump() == {"train": 96, "validation": 12, "test": 12}
    assert manifest.source == "zip upload: digits.zip"


def test_a_disk_that_is_full_is_told_and_no_half_dataset_stays(
    order: IngestOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"the first half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shared.artefacts.datasets.write_tensors", full)
    with pytest.raises(StoreFull, match="datasets/mine"):
        ingest(order)
    assert list((order.store / "datasets").rglob("*.safetensors")) == []


@pytest.mark.parametrize("name", ["mnist", "mnist-5k"])
def test_names_of_built_in_datasets_are_taken(order: IngestOrder, name: str) -> None:
    with pytest.raises(DatasetExists):
        ingest(order.model_copy(update={"name": name}))


@pytest.mark.parametrize(
    "error",
    [
        InvalidImage("torn", file="a/1.png"),
        ImageTooLarge("wide"),
        DatasetExists("mine"),
        InvalidDataset("no"),
        StoreFull("store/datasets/mine"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_the_pipe_whole(error: DistillationError) -> None:
    back = error_of(problem_of(error))
    assert type(back) is type(error)
    assert (str(back), back.remedy, vars(back)) == (
        str(error),
        error.remedy,
        {**vars(error), "remedy": error.remedy},
    )


@pytest.mark.integration
def test_a_child_stores_what_this_process_would_have_stored(order: IngestOrder) -> None:
    manifest = ingest_in_child(order, timeout_s=60, memory_limit_bytes=MEMORY)
    assert ArtefactStore(order.store).datasets.get("mine") == manifest
    assert ingest(order).digest == manifest.digest


@pytest.mark.integration
def test_parquet_is_read_within_the_memory_limit(order: IngestOrder, tmp_path: Path, digits: Digits) -> None:
    path = write_parquet(tmp_path / "a.parquet", digits)
    manifest = ingest_in_child(with_file(order, path), timeout_s=60, memory_limit_bytes=MEMORY)
    assert manifest.counts.train == 96


@pytest.mark.integration
def test_a_refusal_of_the_child_is_raised_here_as_it_was_there(order: IngestOrder, tmp_path: Path) -> None:
    good = encode(np.zeros((8, 8), np.uint8))
    path = write_zip(tmp_path / "a.zip", {"a/1.png": good, "b/1.png": b"broken"})
    with pytest.raises(InvalidImage) as caught:
        ingest_in_child(with_file(order, path), timeout_s=60, memory_limit_bytes=MEMORY)
    assert caught.value.file == "b/1.png"
    assert str(caught.value) == "b/1.png: this is not a PNG, JPEG or WebP image"
    assert ArtefactStore(order.store).datasets.names() == []


@pytest.mark.integration
def test_an_upload_that_needs_too_much_memory_is_refused(order: IngestOrder, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(idx_bytes(np.zeros((3, 4_000, 4_000, 3))))  # 144 MB, held more than once
    (tmp_path / "b").write_bytes(idx_bytes(np.arange(3)))
    files = tuple(IngestFile(path=tmp_path / name, name=name) for name in "ab")
    heavy = order.model_copy(update={"files": files})
    with pytest.raises(InvalidDataset, match="memory"):
        ingest_in_child(heavy, timeout_s=60, memory_limit_bytes=400_000_000)
    assert ArtefactStore(order.store).datasets.names() == []


@pytest.mark.integration
def test_an_upload_that_takes_too_long_is_refused_and_its_child_ends(order: IngestOrder) -> None:
    with pytest.raises(InvalidDataset, match=r"within 0\.01 s"):
        ingest_in_child(order, timeout_s=0.01, memory_limit_bytes=MEMORY)
    assert [
        child for child in psutil.Process().children() if "shared.datasets.ingest" in child.cmdline()
    ] == []


@pytest.mark.integration
def test_a_failure_that_is_not_the_uploads_is_no_refusal(order: IngestOrder, tmp_path: Path) -> None:
    missing = with_file(order, tmp_path / "missing")
    with pytest.raises(RuntimeError, match="FileNotFoundError"):
        ingest_in_child(missing, timeout_s=60, memory_limit_bytes=MEMORY)


PARENT = """
import subprocess, sys, os
command = [sys.executable, "-m", "shared.datasets.ingest", str(os.getpid())]
child = subprocess.Popen(command, stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.integration
def test_the_child_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(1)  # the child waits for an order that never comes
    assert child.is_running()
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
