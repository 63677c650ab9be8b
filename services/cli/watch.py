"""Shows a job while it runs: live bars with an estimated end for every stage, or plain lines.

Bars are for a terminal. Elsewhere (a log, a pipe) a line is written where a stage begins, ends or has come
another tenth of its way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from services.cli.client import GatewayClient
from services.cli.errors import JobNotSucceeded
from shared.contracts import jobs
from shared.contracts.jobs import JobEvent, JobEventKind, JobState, JobView, Stage


class Display(Protocol):
    """Something that shows events, in the order in which they happened."""

    def show(self, event: JobEvent) -> None:
        """Show one event."""
        ...


def watch(client: GatewayClient, job: JobView, console: Console) -> JobView:
    """Show the job from its first event to its last; return it as it ended."""
    with display(job, console) as shown:
        for event in client.follow(job.id):
            shown.show(event)
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
    """Return the stages that this job goes through, in order."""
    without = {Stage.TRANSFER_SET} if job.spec.kind == "teacher" else set()
    return [stage for stage in Stage if stage not in without]


class Bars:
    """A live bar a stage."""

    def __init__(self, bars: Progress, stages: list[Stage]) -> None:
        self._bars = bars
        self._clock = _StageClock()
        self._tasks: dict[Stage, TaskID] = {stage: self._add(stage) for stage in stages}

    def _add(self, stage: Stage) -> TaskID:
        title = stage.value.replace("_", " ")
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
            self._tasks[progress.stage] = self._add(progress.stage)
        self._bars.update(
            self._tasks[progress.stage],
            total=max(progress.total, 1),
            completed=progress.done if progress.total else 1,
            count=_count(progress),
            time=self._clock.time(progress, event.at),
            metrics=_metrics(progress.metrics),
        )


class Lines:
    """A plain line for each thing worth a line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._clock = _StageClock()
        self._shown: dict[Stage, float] = {}

    def show(self, event: JobEvent) -> None:
        """Write a line where the event is news: at least a tenth further than the last."""
        if event.kind is not JobEventKind.PROGRESS:
            text = _words(event)
            if text:
                self._write(event.at, text)
            return
        progress = jobs.Progress.model_validate(event.data)
        share = progress.done / progress.total if progress.total else 1.0
        time = self._clock.time(progress, event.at)
        before = self._shown.get(progress.stage)
        if before is not None and (share == before or (before < share < min(before + 0.1, 1.0))):
            return
        self._shown[progress.stage] = share
        words = [progress.stage.value, _count(progress), time, _metrics(progress.metrics)]
        self._write(event.at, "  ".join(word for word in words if word))

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
        return f"ETA {duration(progress.eta_s)}" if progress.eta_s is not None else "ETA –"


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
    return f"{data.get('state', '')}{again}"
