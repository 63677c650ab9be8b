"""One attempt at a job: the training process on one side, the job record on the other, a lease in between."""

import logging
import math
import signal
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from threading import Event

from services.worker.child import TrainingProcess, cause_of_death
from services.worker.memory import MemoryWatch, in_words
from services.worker.metrics import StageWatch, WorkerMetrics
from services.worker.protocol import EXIT_LATER, EXIT_STOPPED, EXIT_WAITING, ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from shared.artefacts.checkpoints import last_checkpoint, words_on_last_checkpoint
from shared.artefacts.jobs import JobFiles
from shared.contracts.jobs import Failure, JobResult, JobState, Progress
from shared.contracts.specs import JobSpec
from shared.errors import (
    JobFailed,
    JobNotFound,
    JobStoreUnavailable,
    LeaseLost,
    OomKilled,
    OutOfMemory,
    WorkerDied,
)
from shared.jobs.ports import Grant, JobStore, Signal

log = logging.getLogger(__name__)

_LISTEN_S = 0.1
"""How long one look at the child's output waits; everything else in the loop happens in between."""
_TELL_S = 0.25
"""Progress goes to the record at most this often; what came in between is told by the newest."""
_RETRY_S = 0.5
"""Pause after a store that did not answer."""
_MOST_UNTOLD = 1000
_LAST_WORDS_S = 5.0
"""How long a stopping worker tries to write how the attempt ended; the lease tells it otherwise."""
_START_AGAIN_S = 5.0
"""Pause after a process could not be started: the next job would fare no better here."""


class Stop(Enum):
    """Why the training process was asked to leave."""

    CANCEL = "cancelled"
    PAUSE = "paused"
    SHUTDOWN = "the worker is stopping"
    LAPSED = "the lease could not be renewed in time"
    LOST = "the lease passed to another worker"


class Attempt:
    """Runs one granted job to its end, or to the next worker. Used once, by one thread."""

    def __init__(
        self, store: JobStore, grant: Grant, settings: WorkerSettings, metrics: WorkerMetrics, stopping: Event
    ) -> None:
        self._store = store
        self._grant = grant
        self._settings = settings
        self._metrics = metrics
        self._stopping = stopping
        self._watch = StageWatch(metrics)
        now = time.monotonic()
        # The grant is a moment old, and a renewal counts from before it is sent: our clock ends first.
        self._lease_until = now + settings.lease_s - 0.1
        self._next_renewal = now + settings.heartbeat_s
        self._next_look = now + settings.cancel_poll_s
        self._next_tell = now
        self._store_away_until = 0.0
        self._store_away = False
        self._untold: deque[Progress | str] = deque(maxlen=_MOST_UNTOLD)
        self._outcome: JobResult | Failure | None = None
        self._children: list[tuple[str, JobSpec]] = []
        self._stop: Stop | None = None
        self._child_knows = False
        self._kill_at = math.inf
        self.is_put_off = False
        """Whether the job is queued again for what is away or missing, and will be so for a while."""

    @property
    def children(self) -> tuple[str, ...]:
        """The ids of the child jobs that were to be made."""
        return tuple(child for child, _ in self._children)

    def run(self) -> JobState | None:
        """Return the state the job is in afterwards; None where that is another worker's business."""
        order = ChildOrder(
            job_id=self._grant.job_id,
            epoch=self._grant.epoch,
            attempts=self._grant.attempts,
            spec=self._grant.spec,
            children=self._grant.children,
            owner=self._grant.owner,
            key_id=self._grant.key_id,
        )
        settings = self._settings
        try:
            process = TrainingProcess(settings.training_module, order, settings.threads)
        except OSError as error:
            return self._not_started(error)
        with process as child:
            log.info("training process started", extra={"pid": child.pid, "attempt": order.attempts})
            memory = MemoryWatch(child.pid, settings.memory_limit)
            while not child.exited():
                self._hear(child.read(_LISTEN_S))
                self._tell()
                self._keep_lease()
                self._mind_stop(child)
                if memory.is_over():
                    child.kill()
            messages, status = child.end()
        self._hear(messages)
        self._watch.end(time.monotonic())
        return self._conclude(status, memory)

    # --- while it runs -------------------------------------------------------------------------------------

    def _hear(self, messages: list[ChildMessage]) -> None:
        for message in messages:
            if message.progress is not None:
                self._watch.see(message.progress, time.monotonic())
                newest = self._untold[-1] if self._untold else None
                if isinstance(newest, Progress) and newest.stage is message.progress.stage:
                    self._untold.pop()
                self._untold.append(message.progress)
            elif message.note is not None:
                self._untold.append(message.note)
            elif message.child is not None:
                # By its place in the plan: whoever makes it again makes the same.
                number = len(self._grant.children) + len(self._children)
                self._children.append((f"{self._grant.job_id}-{number:03}", message.child))
            else:
                self._outcome = message.result or message.failure
                # All is on disk; a process that cannot find its end may not hold the job back, nor a cancel
                # for longer than it has.
                self._kill_at = min(self._kill_at, time.monotonic() + self._settings.shutdown_grace_s)

    def _tell(self) -> None:
        now = time.monotonic()
        if now >= self._next_tell:
            self._next_tell = now + _TELL_S
            while self._untold and self._ask(self._tell_next):
                self._untold.popleft()

    def _tell_next(self) -> None:
        job_id, epoch = self._grant.job_id, self._grant.epoch
        newest = self._untold[0]
        if isinstance(newest, Progress):
            self._store.progress(job_id, epoch, newest)
        else:
            self._store.note(job_id, epoch, newest)

    def _keep_lease(self) -> None:
        now = time.monotonic()
        if now >= self._next_renewal:
            if self._ask(self._renew):
                self._lease_until = now + self._settings.lease_s
                self._next_renewal = now + self._settings.heartbeat_s
                self._next_look = now + self._settings.cancel_poll_s
        elif now >= self._next_look and self._ask(self._look):
            self._next_look = now + self._settings.cancel_poll_s

    def _renew(self) -> None:
        self._obey(self._store.renew(self._grant.job_id, self._grant.epoch, self._settings.lease_s))

    def _look(self) -> None:
        self._obey(self._store.look(self._grant.job_id, self._grant.epoch))

    def _obey(self, signal: Signal) -> None:
        if signal.cancel_requested and self._stop is not Stop.CANCEL:
            self._stop_for(Stop.CANCEL, self._settings.cancel_grace_s)
        elif signal.pause_requested and self._stop is None:
            # The same grace: what cannot make its checkpoint in time has the last one.
            self._stop_for(Stop.PAUSE, self._settings.cancel_grace_s)

    def _mind_stop(self, child: TrainingProcess) -> None:
        now = time.monotonic()
        if self._stop is None:
            if self._stopping.is_set():
                self._stop_for(Stop.SHUTDOWN, self._settings.shutdown_grace_s)
            elif now > self._lease_until:
                self._stop_for(Stop.LAPSED, self._settings.shutdown_grace_s)
        if self._stop is not None and not self._child_knows:
            log.info("stopping the training process", extra={"reason": self._stop.value})
            self._child_knows = True
            child.stop()
        if now >= self._kill_at:
            child.kill()

    def _stop_for(self, reason: Stop, grace_s: float) -> None:
        self._stop = reason
        self._kill_at = time.monotonic() + grace_s

    def _ask(self, call: Callable[[], None]) -> bool:
        """Tell whether the store took the call; one that does not answer is left alone for a moment."""
        if self._stop is Stop.LOST or time.monotonic() < self._store_away_until:
            return False
        try:
            call()
        except JobStoreUnavailable as error:
            if not self._store_away:
                log.warning("the job store does not answer; training goes on", extra={"reason": str(error)})
            self._store_away = True
            self._store_away_until = time.monotonic() + _RETRY_S
            return False
        except (LeaseLost, JobNotFound) as error:
            self._lose(error)
            return False
        if self._store_away:
            log.info("the job store answers again")
            self._store_away = False
        return True

    def _lose(self, error: LeaseLost | JobNotFound) -> None:
        log.warning("the job is not ours any more", extra={"reason": str(error)})
        self._metrics.leases_lost.inc()
        self._stop_for(Stop.LOST, 0)

    # --- at its end ----------------------------------------------------------------------------------------

    def _conclude(self, status: int, memory: MemoryWatch) -> JobState | None:
        if self._stop is Stop.LOST:
            self._count("lost")
            return None
        self._next_tell = 0.0
        self._tell()
        job_id, epoch = self._grant.job_id, self._grant.epoch
        outcome = self._outcome
        if isinstance(outcome, JobResult):
            self._count("finished")
            return self._persist(lambda: self._store.succeed(job_id, epoch, outcome))
        if isinstance(outcome, Failure):
            self._count("finished")
            return self._persist(lambda: self._store.fail(job_id, epoch, outcome))
        if status == EXIT_WAITING and self._children:
            # Where it was asked to leave meanwhile, too: to wait is to leave, and the store sees a cancel.
            self._count("waiting")
            return self._persist(lambda: self._store.wait(job_id, epoch, self._children))
        if self._stop in (Stop.CANCEL, Stop.PAUSE):
            self._tell_checkpoint()
        if self._stop is Stop.CANCEL:
            self._count("stopped")
            return self._persist(lambda: self._store.cancelled(job_id, epoch))
        if self._stop is not None:
            # It was asked to leave: whether it made its checkpoint in time or not, this is no death. Where a
            # pause was asked for, the store puts the job aside and not into the queue.
            log.info("handing the job back", extra={"status": status, "checkpoint": status == EXIT_STOPPED})
            self._count("stopped")
            return self._persist(lambda: self._store.release(job_id, epoch))
        if status == EXIT_LATER:
            return self._put_off()
        self._count("died")
        if memory.is_over() and memory.limit_bytes is not None:
            # It would take the same again.
            return self._fail(
                OutOfMemory(
                    f"the training process held {in_words(memory.peak_bytes)} of the "
                    f"{in_words(memory.limit_bytes)} that WORKER_MEMORY_LIMIT allows, and was killed"
                )
            )
        for_lack_of_memory = status == -signal.SIGKILL and memory.kernel_killed()
        return self._give_back_dead(cause_of_death(status), for_lack_of_memory=for_lack_of_memory)

    def _not_started(self, error: OSError) -> JobState | None:
        """Hand the job back: of a machine without memory, descriptors or room for files it can do nothing."""
        reason = error.strerror or type(error).__name__
        log.error("no training process can be started", extra={"reason": str(error)})
        self._untold.append(f"no training process could be started, the job is tried again: {reason}")
        self._next_tell = 0.0
        self._tell()
        state = self._put_off()
        self._stopping.wait(_START_AGAIN_S)
        return state

    def _put_off(self) -> JobState | None:
        log.info("the job is put off")
        self._count("put off")
        self.is_put_off = True
        return self._persist(lambda: self._store.release(self._grant.job_id, self._grant.epoch))

    def _tell_checkpoint(self) -> None:
        """Tell who asked for a cancel or a pause what is kept of the training, where it made any of it."""
        job_id = self._grant.job_id
        folder = JobFiles(self._settings.store_dir / "jobs", job_id).checkpoints
        try:
            # Whether its weights are whole would take seconds for each gigabyte, and somebody waits.
            found = last_checkpoint(folder, compare=False)
        except OSError:
            log.exception("the checkpoints cannot be looked through")
            return
        if found is not None:
            epoch, step = found.state.get("epoch"), found.state.get("step")
            self._untold.append(
                f"kept: the training after {epoch} epochs and {step} steps, and its best weights so far, "
                f"see GET /v1/jobs/{job_id}/checkpoint"
            )
            self._next_tell = 0.0
            self._tell()

    def _give_back_dead(self, cause: str, *, for_lack_of_memory: bool) -> JobState | None:
        job_id, epoch, attempts = self._grant.job_id, self._grant.epoch, self._grant.attempts
        log.error("the training process died", extra={"cause": cause, "attempt": attempts})
        if attempts < self._settings.max_attempts:
            return self._persist(lambda: self._store.release(job_id, epoch, died=cause))
        return self._fail(OomKilled(attempts, cause) if for_lack_of_memory else WorkerDied(attempts, cause))

    def _fail(self, error: JobFailed) -> JobState | None:
        job_id, epoch = self._grant.job_id, self._grant.epoch
        checkpoints = JobFiles(self._settings.store_dir / "jobs", job_id).checkpoints
        try:
            kept = words_on_last_checkpoint(checkpoints, compare=False)
        except OSError:
            log.exception("the checkpoints cannot be looked through")
            kept = "whether a checkpoint was made is not known"
        detail = f"{error}; {kept}"
        log.error("job failed", extra={"code": error.code, "detail": detail})
        failure = Failure(code=error.code, detail=detail, remedy=error.remedy)
        return self._persist(lambda: self._store.fail(job_id, epoch, failure))

    def _persist(self, write: Callable[[], JobState]) -> JobState | None:
        """Write how it ended, however long the store is away; the epoch fences us where that is too long."""
        last_words: float | None = None
        while True:
            try:
                return write()
            except (LeaseLost, JobNotFound) as error:
                self._lose(error)
                return None
            except JobStoreUnavailable as error:
                log.warning("the end of the job is not recorded yet", extra={"reason": str(error)})
            if self._stopping.is_set():
                last_words = last_words or time.monotonic() + _LAST_WORDS_S
                if time.monotonic() > last_words:
                    log.error("left without recording the end of the job; its lease will lapse")
                    return None
            time.sleep(_RETRY_S)

    def _count(self, end: str) -> None:
        self._metrics.attempts.labels(end).inc()
