"""What the stages of a job share: the order, the store, how to tell progress, when to stop."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Event

from pydantic import JsonValue

from services.worker.protocol import ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from shared.artefacts.files import digest_of, publish_directory, write_atomic
from shared.artefacts.jobs import JobFiles
from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import MOST_CHILDREN, ChildJob, JobState, Progress, Stage
from shared.contracts.specs import JobSpec
from shared.errors import ChildFailed, JobNotFound, JobStoreUnavailable, LeaseLost, TooManyChildren
from shared.jobs.ports import JobStore
from shared.transfer_set.store import TransferSetStore

log = logging.getLogger(__name__)

_SECONDS = "seconds.txt"
_WRITTEN_EVERY_S = 1.0
"""How much of its time a stage forgets at most, beyond its last progress, where its process is killed."""
_LOOK_AGAIN_S = 0.5
"""Pause before the record is asked again whether the job is still ours."""


class JobWaits(Exception):
    """The job goes on once the child jobs that it asked for have ended; what was done so far is kept."""


class JobStopped(Exception):
    """The supervisor asked the training process to stop; what was done so far is kept."""


@dataclass
class StageClock:
    """Turns "done of total" into an estimate of the time left, from the pace since the stage began."""

    began: float = field(default_factory=time.monotonic)
    done_at_start: int | None = None

    def eta_s(self, done: int, total: int) -> float | None:
        """Return the seconds left, or None before the first piece of work is done."""
        if self.done_at_start is None:
            self.done_at_start = done
        fresh = done - self.done_at_start
        if fresh <= 0:
            return None
        return (time.monotonic() - self.began) / fresh * (total - done)


class _Spent:
    """Seconds that a stage has taken, over all attempts: a small file that outlives each of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = float(path.read_text()) if path.exists() else 0.0
        self._began = self._written = time.perf_counter()

    def seconds(self) -> float:
        """Return what all attempts together took, this one up to now."""
        return self._before + time.perf_counter() - self._began

    def write(self) -> None:
        """Keep it, where the disk takes it: no job fails for it, or for another reason than its own."""
        self._written = time.perf_counter()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, f"{self.seconds():.3f}\n".encode())
        except OSError as error:
            log.warning("the time of a stage could not be written", extra={"reason": str(error)})

    def write_sometimes(self) -> None:
        """Keep it, unless that was done a moment ago."""
        if time.perf_counter() - self._written >= _WRITTEN_EVERY_S:
            self.write()


@dataclass
class JobContext:
    """One attempt at one job."""

    order: ChildOrder
    settings: WorkerSettings
    store: ArtefactStore
    send: Callable[[ChildMessage], None]
    stop: Event = field(default_factory=Event)
    jobs: JobStore | None = None
    """The record, which tells whether the job is still this attempt's; None where none is kept."""
    clocks: dict[Stage, StageClock] = field(default_factory=dict)
    children_asked: int = 0
    """Child jobs that this attempt has asked for so far."""
    _spent: _Spent | None = field(default=None, init=False)
    """Of the stage that is built now."""

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.order.job_id

    @property
    def owner(self) -> str | None:
        """Whose the job is, and so whose everything is that it makes: for `store.owners`."""
        return self.order.owner

    @cached_property
    def transfer_sets(self) -> TransferSetStore:
        """Where transfer sets are kept, by the settings."""
        return TransferSetStore(
            self.settings.transfer_sets_place, self.settings.transfer_sets_cache, pause=self.pause
        )

    @property
    def files(self) -> JobFiles:
        """The job's own folder in the store."""
        return self.store.job(self.order.job_id)

    @property
    def spent_s(self) -> float:
        """Seconds that the stage which is built now has taken so far, over all attempts."""
        assert self._spent is not None, "asked within `once`"
        return self._spent.seconds()

    def progress(
        self,
        stage: Stage,
        done: int,
        total: int,
        unit: str,
        metrics: dict[str, float] | None = None,
        *,
        may_stop: bool = True,
    ) -> None:
        """Tell how far a stage is; leaves by `JobStopped` where the supervisor asked for it and it may."""
        if self._spent is not None:
            self._spent.write_sometimes()
        clock = self.clocks.setdefault(stage, StageClock())
        self.send(
            ChildMessage(
                progress=Progress(
                    stage=stage,
                    done=done,
                    total=total,
                    unit=unit,
                    eta_s=clock.eta_s(done, total),
                    metrics=metrics or {},
                )
            )
        )
        if may_stop:
            self.leave_if_stopped()

    def leave_if_stopped(self) -> None:
        """Raise `JobStopped` where the supervisor asked for it."""
        if self.stop.is_set():
            raise JobStopped

    def pause(self, seconds: float) -> None:
        """Wait; leave by `JobStopped` where the supervisor asks for it meanwhile."""
        if self.stop.wait(seconds):
            raise JobStopped

    def need_lease(self) -> None:
        """Return where the job is still this attempt's; leave by `JobStopped` where it is not.

        To be called right before others can see what the attempt has made, or get it by a name: a process
        that was frozen or cut off for a while may wake when its job has been cancelled, or goes on elsewhere.
        While the record does not answer it waits, until the supervisor asks it to stop.
        """
        while not self._holds_lease():
            self.pause(_LOOK_AGAIN_S)

    def _holds_lease(self) -> bool:
        """Tell whether the job is ours and wanted, as far as the record answers."""
        if self.jobs is None:
            return True
        try:
            signal = self.jobs.look(self.job_id, self.order.epoch)
        except JobStoreUnavailable as error:
            log.warning("the job store does not answer; nothing is published", extra={"reason": str(error)})
            return False
        except (LeaseLost, JobNotFound) as error:
            log.warning("the job is not ours any more: nothing is published", extra={"reason": str(error)})
            raise JobStopped from error
        # Of a cancel the supervisor hears in a moment, too, and stops us.
        return not signal.cancel_requested

    def note(self, text: str) -> None:
        """Tell something in words."""
        self.send(ChildMessage(note=text))

    def children(self, specs: Sequence[JobSpec]) -> tuple[ChildJob, ...]:
        """Return the ends of these child jobs, each of which succeeded, in the order of `specs`.

        Where they were not made yet, they are now, and the job waits: it runs again from its start once all
        have ended. So what comes before must be kept by `once`, and must ask for the same children each time.
        A job may call this more than once; later children may be planned by what earlier ones left.

        Raises:
            ChildFailed: a child failed or was cancelled; its siblings were cancelled.
            TooManyChildren: one job may not make so many.
            JobWaits: not to be caught.
        """
        begin = self.children_asked
        self.children_asked += len(specs)
        if self.children_asked > MOST_CHILDREN:
            raise TooManyChildren(self.children_asked, MOST_CHILDREN)
        ended = self.order.children[begin : self.children_asked]
        # The one that failed says why; the others were cancelled for its sake.
        for child in sorted(ended, key=lambda child: child.state is not JobState.FAILED):
            if child.state is not JobState.SUCCEEDED:
                raise _failed(child)
        if len(ended) == len(specs):
            return ended
        for spec in specs[len(ended) :]:
            self.send(ChildMessage(child=spec))
        raise JobWaits

    def child_files(self, child: ChildJob) -> JobFiles:
        """Return the child's folder in the store; `child.result.artefact` names a folder in it."""
        return self.store.job(child.id)

    def once(self, stage: Stage, inputs: dict[str, JsonValue], build: Callable[[Path], None]) -> Path:
        """Return the stage's output, named by the digest of its inputs; build it where it is missing.

        The build happens aside and is renamed into place, so whoever runs the stage again finds it whole or
        not at all.
        """
        final = self.files.stage(stage, digest_of(inputs))
        if final.exists():
            self.note(f"stage {stage} was done before: its output is used")
            return final

        spent_at = self.files.attempts / f"{final.name}.seconds"

        def timed(directory: Path) -> None:
            with self._timed(spent_at) as spent:
                build(directory)
            (directory / _SECONDS).write_text(f"{spent.seconds():.3f}\n")

        publish_directory(final, timed)
        spent_at.unlink(missing_ok=True)
        return final

    @contextmanager
    def _timed(self, path: Path) -> Iterator[_Spent]:
        spent, outer = _Spent(path), self._spent
        self._spent = spent
        try:
            yield spent
        finally:
            self._spent = outer
            spent.write()


def seconds_of(stage_output: Path) -> float:
    """Return how long building the stage took, in seconds: all attempts together, those cut off as well."""
    return float((stage_output / _SECONDS).read_text())


def _failed(child: ChildJob) -> ChildFailed:
    if child.failure is None:
        return ChildFailed(child.id, child.kind, "was cancelled", "Submit the job again.")
    failure = child.failure
    return ChildFailed(child.id, child.kind, f"failed: {failure.detail} ({failure.code})", failure.remedy)
