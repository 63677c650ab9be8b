"""How the training process ends where its job cannot go on."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from services.worker import training_process
from services.worker.protocol import EXIT_FAILED, EXIT_LATER, ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext
from shared.artefacts.checkpoints import CheckpointFolder
from shared.artefacts.store import ArtefactStore
from shared.contracts.specs import JobSpec, TeacherImportSpec
from shared.contracts.teacher_sources import OipSource
from shared.errors import (
    DatasetNotFound,
    Diverged,
    JobStoreUnavailable,
    TeacherAnswerInvalid,
    TeacherNotFound,
    TeacherUnavailable,
    TransferSetsUnavailable,
)
from tests.support.jobs import teacher_spec


def ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: object, spec: JobSpec | None = None
) -> tuple[int, list[ChildMessage]]:
    sent: list[ChildMessage] = []
    settings = WorkerSettings(state_dir=tmp_path)
    order = ChildOrder(job_id="j-1", epoch=1, attempts=1, spec=spec or teacher_spec("t"))
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
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory.\nSee documentation for more"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
)
def test_a_device_or_a_python_without_memory_is_told_in_one_line(tmp_path, monkeypatch, error):
    status, sent = ended(tmp_path, monkeypatch, raising(error))
    assert (status, sent[-1].failure.code) == (EXIT_FAILED, "out-of-memory")
    assert "\n" not in sent[-1].failure.detail


def test_a_disk_that_is_full_fails_the_job_by_name_whatever_was_being_written(tmp_path, monkeypatch):
    """The real thing: nothing fits /dev/full."""
    status, sent = ended(tmp_path, monkeypatch, lambda _: Path("/dev/full").write_bytes(b"a checkpoint"))
    assert (status, sent[-1].failure.code) == (EXIT_FAILED, "store-full")
    assert "GET /v1/jobs/j-1/checkpoint" in sent[-1].failure.remedy


def test_any_other_error_that_nobody_foresaw_is_left_to_the_next_attempt(tmp_path, monkeypatch):
    for error in (RuntimeError("shapes do not fit"), RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM")):
        assert ended(tmp_path, monkeypatch, raising(error)) == (training_process.EXIT_UNFORESEEN, [])


@pytest.mark.parametrize(
    "error",
    [
        TeacherUnavailable("connection refused"),
        TransferSetsUnavailable("s3://sets", "connection refused"),
        JobStoreUnavailable("connection refused"),
    ],
)
def test_what_a_job_needs_may_be_away_and_come_back(tmp_path, monkeypatch, error):
    status, sent = ended(tmp_path, monkeypatch, raising(error))
    assert status == EXIT_LATER
    assert [message.note for message in sent] == [
        f"{error}; the job is tried again later, and no attempt is lost"
    ]


def test_what_refuses_is_not_asked_again(tmp_path, monkeypatch):
    refused = TransferSetsUnavailable("s3://sets", "Forbidden", refused=True)
    for error in (refused, TeacherNotFound("owl"), TeacherAnswerInvalid("3 rows are NaN")):
        status, sent = ended(tmp_path, monkeypatch, raising(error))
        assert (status, sent[-1].failure.code) == (EXIT_FAILED, error.code)


def test_the_server_that_an_import_names_is_not_waited_for(tmp_path, monkeypatch):
    """It may never have been there: its address is in the order."""
    source = OipSource(url="http://127.0.0.1:1", model="digits", classes=("a", "b"))
    spec = TeacherImportSpec(name="remote", source=source)
    status, sent = ended(tmp_path, monkeypatch, raising(TeacherUnavailable("no route")), spec)
    assert (status, sent[-1].failure.code) == (EXIT_FAILED, "teacher-unavailable")


# --- what the words of a failure end with ------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [Diverged(2, float("nan"), 3), MemoryError(), OSError(errno.EFBIG, "File too large", "/a/b/c")]
)
def test_a_training_that_cannot_go_on_tells_its_last_good_checkpoint(tmp_path, monkeypatch, error):
    _, sent = ended(tmp_path, monkeypatch, raising(error))
    assert sent[-1].failure.detail.endswith("; no checkpoint was made")

    def save_and_raise(context: JobContext) -> None:
        CheckpointFolder(context.files.checkpoints / "of-a-net").save({"epoch": 4, "step": 2}, b"weights")
        raise error

    _, sent = ended(tmp_path, monkeypatch, save_and_raise)
    assert sent[-1].failure.detail.endswith(
        "; the last good checkpoint is of-a-net/00000001, after 4 epochs and 2 steps"
    )


def test_what_is_refused_before_any_training_tells_of_no_checkpoint(tmp_path, monkeypatch):
    _, sent = ended(tmp_path, monkeypatch, raising(DatasetNotFound("shapes")))
    assert "checkpoint" not in sent[-1].failure.detail


# --- the same bits each time -------------------------------------------------------------------------------


def test_deterministic_algorithms_are_asked_for_where_the_setting_says_so(tmp_path):
    """In a process of its own, as it is: before CUDA could have started."""
    asked = """
import os, sys, torch
from services.worker import training_process
torch.backends.cudnn.benchmark = True
training_process._run = lambda context: print(
    torch.are_deterministic_algorithms_enabled(),
    torch.backends.cudnn.benchmark,
    os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    file=sys.stderr,
) or 0
training_process.main()
"""
    order = ChildOrder(job_id="j-1", epoch=1, attempts=1, spec=teacher_spec("t"))
    found = {}
    for setting in ("true", "false"):
        environment = {
            **os.environ,
            "WORKER_DETERMINISTIC": setting,
            "WORKER_THREADS": "1",
            "IMAGO_STATE_DIR": str(tmp_path),
        }
        environment.pop("CUBLAS_WORKSPACE_CONFIG", None)
        ran = subprocess.run(
            [sys.executable, "-c", asked],
            input=order.model_dump_json() + "\n",
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found[setting] = ran.stderr.splitlines()[-1]
    assert found == {"true": "True False :4096:8", "false": "False True None"}
