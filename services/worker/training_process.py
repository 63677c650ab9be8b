"""The training process: one job, from the supervisor's order on stdin to its result on stdout.

It runs as a child of the worker so that a crash, a leak or a kill costs one attempt and never the worker. It
writes artefacts only; the job record is the supervisor's, and is asked here only whether the job is still
this attempt's before anything of it goes live. See `services.worker.protocol`.
"""

import logging
import os
import re
import signal
import sys
from types import FrameType
from typing import TextIO

import torch

from services.worker.kinds.registry import run
from services.worker.protocol import (
    EXIT_FAILED,
    EXIT_LATER,
    EXIT_STOPPED,
    EXIT_SUCCEEDED,
    EXIT_WAITING,
    ChildMessage,
    ChildOrder,
)
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext, JobStopped, JobWaits
from shared import settings as shared_settings
from shared.adapters.redis_jobs import RedisJobStore
from shared.artefacts.checkpoints import words_on_last_checkpoint
from shared.artefacts.room import FULL
from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import Failure
from shared.contracts.specs import TeacherImportSpec
from shared.distillation.cohort import TrainingStopped
from shared.errors import (
    DistillationError,
    Diverged,
    JobStoreUnavailable,
    OutOfMemory,
    StoreFull,
    TeacherUnavailable,
    TransferSetsUnavailable,
)
from shared.logs import configure_logging, job_context

log = logging.getLogger(__name__)

_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: can't allocate memory"
    r"|CUDA (driver )?error: out of memory"
    r"|\bCU[A-Z]+_(\w+_)?ALLOC(ATION)?_FAILED"  # of cuBLAS, cuDNN and their kin, for workspaces of their own
)

EXIT_UNFORESEEN = 70
"""As in sysexits.h, an internal error; the supervisor tries the job again, up to its attempts."""


def main() -> int:
    """Run the ordered job and return the exit code of the protocol."""
    messages = _claim_stdout()
    settings = shared_settings.load(WorkerSettings)
    configure_logging("worker", settings.log_level)
    order = ChildOrder.model_validate_json(sys.stdin.readline())
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    if settings.deterministic:
        be_deterministic()

    def send(message: ChildMessage) -> None:
        messages.write(message.model_dump_json(exclude_none=True) + "\n")
        messages.flush()

    context = JobContext(
        order=order,
        settings=settings,
        store=ArtefactStore(settings.store_dir),
        send=send,
        jobs=RedisJobStore(settings.redis_url),
    )

    def on_sigterm(_signal: int, _frame: FrameType | None) -> None:
        context.stop.set()

    signal.signal(signal.SIGTERM, on_sigterm)
    # Ctrl-C reaches the whole terminal group; the supervisor decides what it means for this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with job_context(order.job_id):
        return _run(context)


def be_deterministic() -> None:
    """Let a training end with the same bits each time, on CUDA as well; to be called before CUDA starts.

    An operation that has no such form fails by name in place of giving other bits.
    """
    # cuBLAS reads it when it starts; two of its buffers and no more keep the order of its sums.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    # It would time several forms of a convolution, and take the one that was fastest this time.
    torch.backends.cudnn.benchmark = False


def _run(context: JobContext) -> int:
    try:
        context.send(ChildMessage(result=run(context)))
    except (JobStopped, TrainingStopped):
        log.info("stopped on request")
        return EXIT_STOPPED
    except JobWaits:
        log.info("left to wait for child jobs")
        return EXIT_WAITING
    except DistillationError as error:
        # The server of an import is named in its order: who mistyped it would wait for ever.
        if _may_pass(error) and not isinstance(context.order.spec, TeacherImportSpec):
            log.warning("the job is put off", extra={"code": error.code, "detail": str(error)})
            context.note(f"{error}; the job is tried again later, and no attempt is lost")
            return EXIT_LATER
        return _failed(context, error)
    except Exception as error:
        if _is_out_of_memory(error):
            log.exception("the memory does not suffice")
            return _failed(context, OutOfMemory(_first_line(error)))
        if isinstance(error, OSError) and error.errno in FULL:
            log.exception("the disk is full")
            return _failed(context, _store_full(context, error))
        # Nobody foresaw it: the supervisor counts the attempt, the log says why.
        log.exception("the training process fails")
        return EXIT_UNFORESEEN
    return EXIT_SUCCEEDED


def _may_pass(error: DistillationError) -> bool:
    """Say whether what a job needs is away; what it answers, a refusal among it, is final."""
    if isinstance(error, TransferSetsUnavailable):
        return not error.refused
    return isinstance(error, TeacherUnavailable | JobStoreUnavailable)


def _store_full(context: JobContext, error: OSError) -> StoreFull:
    kept = f"What it had learned, where it made a checkpoint, is at GET /v1/jobs/{context.job_id}/checkpoint."
    return StoreFull(str(error.filename or context.files.directory), remedy=f"{StoreFull.remedy} {kept}")


def _failed(context: JobContext, error: DistillationError) -> int:
    detail = str(error)
    if isinstance(error, Diverged | OutOfMemory | StoreFull):
        detail = f"{detail}; {words_on_last_checkpoint(context.files.checkpoints)}"
    log.warning("job failed", extra={"code": error.code, "detail": detail})
    context.send(ChildMessage(failure=Failure(code=error.code, detail=detail, remedy=error.remedy)))
    return EXIT_FAILED


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out: torch has a type for it where its own allocator on CUDA found none."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    )


def _first_line(error: Exception) -> str:
    """Return the first line of what an error says: on a GPU torch goes on with advice for its developers."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _claim_stdout() -> TextIO:
    """Keep stdout for the protocol; whatever a library prints goes to stderr from now on."""
    protocol = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return protocol


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # All is on disk and sent. Taking torch and its threads down in order was seen to take seconds on a loaded
    # machine, during which the job looked unfinished.
    os._exit(status)
