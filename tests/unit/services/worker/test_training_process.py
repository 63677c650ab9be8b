"""How the training process ends where its job cannot go on."""

from pathlib import Path

import pytest
import torch

from services.worker import training_process
from services.worker.protocol import EXIT_FAILED, ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext
from shared.artefacts.store import ArtefactStore
from tests.support.jobs import teacher_spec


def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: object) -> tuple[int, list[ChildMessage]]:
    sent: list[ChildMessage] = []
    settings = WorkerSettings(state_dir=tmp_path)
    order = ChildOrder(job_id="j-1", epoch=1, attempts=1, spec=teacher_spec("t"))
    monkeypatch.setattr(training_process, "run", run)
    context = JobContext(order, settings, ArtefactStore(settings.store_dir), sent.append)
    return training_process._run(context), sent


def raising(error: Exception) -> object:
    def run(_: JobContext) -> None:
        raise error

    return run


def test_memory_that_does_not_suffice_fails_the_job_by_name_and_is_not_tried_again(tmp_path, monkeypatch):
    """The real thing: the kernel grants no petabyte."""
    status, sent = ended(tmp_path, monkeypatch, lambda _: torch.empty(1 << 50))
    assert status == EXIT_FAILED
    failure = sent[-1].failure
    assert (failure.code, "allocate" in failure.detail) == ("out-of-memory", True)
    assert "smaller batch" in failure.remedy


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.\nSee documentation for more")]
)
def test_a_device_or_a_python_without_memory_is_told_in_one_line(tmp_path, monkeypatch, error):
    status, sent = ended(tmp_path, monkeypatch, raising(error))
    assert (status, sent[-1].failure.code) == (EXIT_FAILED, "out-of-memory")
    assert "\n" not in sent[-1].failure.detail


def test_a_disk_that_is_full_fails_the_job_by_name_whatever_was_being_written(tmp_path, monkeypatch):
    """The real thing: nothing fits /dev/full."""
    status, sent = ended(tmp_path, monkeypatch, lambda _: Path("/dev/full").write_bytes(b"a checkpoint"))
    assert (status, sent[-1].failure.code) == (EXIT_FAILED, "store-full")


def test_any_other_error_that_nobody_foresaw_is_left_to_the_next_attempt(tmp_path, monkeypatch):
    status, sent = ended(tmp_path, monkeypatch, raising(RuntimeError("shapes do not fit")))
    assert (status, sent) == (training_process.EXIT_UNFORESEEN, [])
