"""Shows a job while it runs: live bars with an estimated end for every stage, or plain lines.

Bars are for a terminal. Elsewhere (a log, a pipe) a line is written where a stage begins, ends or has come
another tenth of its way. While a job waits for its child jobs, those that run are shown with it.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Lock, Thread
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from services.cli.errors import JobNotSucceeded
from shared.client import Client, GatewayError
from shared.contracts import jobs
from shared.contracts.jobs import JobEvent, JobEventKind, JobState, JobView, Stage

log = logging.getLogger(__name__)

CHILDREN_EVERY_S: Final = 1.0
"""How often the children of a job that waits are looked at."""
_STAGES: Final[dict[str, tuple[Stage, ...]]] = {
    "teacher": (Stage.CHECK, Stage.TRAIN, Stage.EVALUATE, Stage.EXPORT, Stage.REPORT),
    "distillation": (
        Stage.CHECK, Stage.TRANSFER_SET, Stage.TRAIN, Stage.EVALUATE, Stage.EXPORT, Stage.REPORT,
    ),
    "redistillation": (
        Stage.CHECK, Stage.FREEZE, Stage.TRANSFER_SET, Stage.TRAIN, Stage.EVALUATE, Stage.EXPORT,
        Stage.REPORT, Stage.SUCCESSION,
    ),
    "transfer_set": (Stage.CHECK, Stage.TRANSFER_SET, Stage.REPORT),
}  # fmt: skip
"""The stages of kinds that always have the same; those of other kinds are shown as they come."""


_ASKED: Final = {"cancel_requested": ", to be cancelled", "pause_requested": ", to pause"}
"""What a worker was asked and has not done yet, by its name in an event."""


class Display(Protocol):
    """Something that shows events, in the order in which they happened."""

    def show(self, event: JobEvent) -> None:
        """Show one event."""
        ...

    def show_children(self, running: Sequence[JobView]) -> None:
        """Show how far these child jobs are, and no others any more."""
        ...


def watch(client: Client, job: JobView, console: Console) -> JobView:
    """Show the job from its first event to its last; return it as it ended."""
    with display(job, console) as shown, _Children(client, job.id, shown) as children:
        for event in client.follow(job.id):
            shown.show(event)
            if event.kind is JobEventKind.STATE:
                children.look(waiting=event.data.get("state") == JobState.WAITING)
    return client.job(job.id)


def succeeded(job: JobView) -> JobView:
    """Return the job, or say why it did not succeed: raises `JobNotSucceeded`."""
    if job.state is JobState.FAILED and job.failure is not None:
        raise JobNotSucceeded(
            job.failure.code, f"job {job.id} failed: {job.failure.detail}", job.failure.remedy
        )
    if job.state is not JobState.SUCCEEDED:
        raise JobNotSucceeded(f"job-{job.state}", f"job {job.id} ended as {job.state}", "Submit it again.")
    return job


@contextmanager
def display(job: JobView, console: Console) -> Iterator[Display]:
    """Open the display that fits the console."""
    if not console.is_terminal:
        yield Lines(console)
        return
    bars = Progress(
        TextColumn("{task.description:<13}", markup=False),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[time]}", style="cyan", markup=False),
        TextColumn("{task.fields[metrics]}", style="dim", markup=False),
        console=console,
    )
    with bars:
        yield Bars(bars, stages_of(job))


def stages_of(job: JobView) -> list[Stage]:
    """Return the stages that this job is sure to go through, in order."""
    return list(_STAGES.get(job.spec.kind, ()))


class _Children(Thread):
    """Looks at the children of a job while it waits: its own events only count the ends of them."""

    def __init__(self, client: Client, parent: str, shown: Display) -> None:
        super().__init__(name="children", daemon=True)
        self._client = client
        self._parent = parent
        self._shown = shown
        self._waiting = Event()
        self._over = Event()
        self._lock = Lock()

    def __enter__(self) -> "_Children":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._waiting.set()
        if self.is_alive():
            self.join()

    def look(self, *, waiting: bool) -> None:
        """Begin to look, or stop."""
        if waiting:
            self._waiting.set()
            if not self.is_alive():
                self.start()
        else:
            self._waiting.clear()
            with self._lock:
                self._shown.show_children(())

    def run(self) -> None:
        """Show the children that run, until the job is over."""
        while self._waiting.wait() and not self._over.is_set():
            try:
                page = self._client.jobs(parent=self._parent, state=JobState.RUNNING, limit=100)
            except GatewayError as error:
                # A gateway that stays away is told by who follows the events.
                log.debug("children not seen", extra={"reason": str(error)})
            else:
                with self._lock:
                    if self._waiting.is_set():
                        self._shown.show_children(page.jobs[::-1])
            self._over.wait(CHILDREN_EVERY_S)


class Bars:
    """A live bar a stage."""

    def __init__(self, bars: Progress, stages: list[Stage]) -> None:
        self._bars = bars
        self._clock = _StageClock()
        self._tasks: dict[Stage, TaskID] = {stage: self._add(_title(stage)) for stage in stages}
        self._children: dict[str, TaskID] = {}

    def _add(self, title: str) -> TaskID:
        return self._bars.add_task(title, total=1, count="", time="", metrics="")

    def show(self, event: JobEvent) -> None:
        """Move the bar that the event is about, or write a line above the bars."""
        if event.kind is not JobEventKind.PROGRESS:
            text = _words(event)
            if text:
                self._bars.console.print(f"{event.at:%H:%M:%S} {text}", highlight=False, markup=False)
            return
        progress = jobs.Progress.model_validate(event.data)
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._add(_title(progress.stage))
        self._move(self._tasks[progress.stage], progress, self._clock.time(progress, event.at))

    def show_children(self, running: Sequence[JobView]) -> None:
        """Show a bar for each of these child jobs."""
        for gone in self._children.keys() - {child.id for child in running}:
            self._bars.remove_task(self._children.pop(gone))
        for child in running:
            progress = child.progress
            if progress is None:
                continue
            if child.id not in self._children:
                self._children[child.id] = self._add("")
            task = self._children[child.id]
            self._bars.update(task, description=f"{_number(child)} {_title(progress.stage)}")
            self._move(task, progress, _estimate(progress))

    def _move(self, task: TaskID, progress: jobs.Progress, time: str) -> None:
        self._bars.update(
            task,
            total=max(progress.total, 1),
            completed=progress.done if progress.total else 1,
            count=_count(progress),
            time=time,
            metrics=_metrics(progress.metrics),
        )


class Lines:
    """A plain line for each thing worth a line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._clock = _StageClock()
        self._shown: dict[tuple[str, Stage], float] = {}

    def show(self, event: JobEvent) -> None:
        """Write a line where the event is news: at least a tenth further than the last."""
        if event.kind is not JobEventKind.PROGRESS:
            text = _words(event)
            if text:
                self._write(event.at, text)
            return
        progress = jobs.Progress.model_validate(event.data)
        self._show_progress("", progress, self._clock.time(progress, event.at), event.at)

    def show_children(self, running: Sequence[JobView]) -> None:
        """Write a line for each child job that is news."""
        for child in running:
            if child.progress is not None:
                progress = child.progress
                self._show_progress(_number(child), progress, _estimate(progress), datetime.now(UTC))

    def _show_progress(self, who: str, progress: jobs.Progress, time: str, at: datetime) -> None:
        share = progress.done / progress.total if progress.total else 1.0
        before = self._shown.get((who, progress.stage))
        if before is not None and (share == before or (before < share < min(before + 0.1, 1.0))):
            return
        self._shown[who, progress.stage] = share
        words = [who, progress.stage.value, _count(progress), time, _metrics(progress.metrics)]
        self._write(at, "  ".join(word for word in words if word))

    def _write(self, at: datetime, text: str) -> None:
        self._console.print(f"{at:%H:%M:%S} {text}", highlight=False, markup=False, soft_wrap=True)


class _StageClock:
    """Knows from the events' own times how long a stage took, so that a replay tells the truth."""

    def __init__(self) -> None:
        self._began: dict[Stage, datetime] = {}
        self._last: datetime | None = None

    def time(self, progress: jobs.Progress, at: datetime) -> str:
        """Return the time that a finished stage took, or else the estimated time to its end."""
        # A short stage is first heard of when it is done: it began where the one before it was last heard of.
        began = self._began.setdefault(progress.stage, self._last or at)
        self._last = at
        if progress.done >= progress.total:
            return f"took {duration((at - began).total_seconds())}"
        return _estimate(progress)


def _estimate(progress: jobs.Progress) -> str:
    return f"ETA {duration(progress.eta_s)}" if progress.eta_s is not None else "ETA –"


def _title(stage: Stage) -> str:
    return stage.value.replace("_", " ")


def _number(child: JobView) -> str:
    """Return a child's number in its family: what its id has behind its parent's."""
    return child.id.rpartition("-")[2]


def duration(seconds: float) -> str:
    """Return a time in words: 0.4 s, 34 s, 2 min 05 s, 3 h 20 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def _count(progress: jobs.Progress) -> str:
    return f"{progress.done:,}/{progress.total:,} {progress.unit}"


def _metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())


def _words(event: JobEvent) -> str:
    data: dict[str, Any] = event.data
    if event.kind is JobEventKind.NOTE:
        return str(data.get("text", ""))
    attempts = data.get("attempts", 0)
    again = f" (attempt {attempts})" if isinstance(attempts, int) and attempts > 1 else ""
    children = data.get("children")
    family = f" for {len(children)} jobs" if isinstance(children, list) else ""
    asked = [words for asked, words in _ASKED.items() if data.get(asked)]
    resumable = "; `imago jobs resume` goes on" if data.get("state") == JobState.PAUSED else ""
    return "".join([str(data.get("state", "")), family, again, *asked, resumable])
