"""What the worker counts for Prometheus."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from shared.contracts.jobs import Progress, Stage

_STAGE_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)


class WorkerMetrics:
    """The worker's metrics on one registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self.jobs = Counter(
            "imago_worker_jobs", "Jobs that this worker ended, by kind and final state",
            ["kind", "state"], registry=registry,
        )  # fmt: skip
        self.attempts = Counter(
            "imago_worker_attempts",
            "Attempts that ended here, by how: finished, waiting, stopped, died, lost",
            ["end"], registry=registry,
        )  # fmt: skip
        self.running = Gauge("imago_worker_jobs_running", "Jobs that run now", registry=registry)
        self.stage_seconds = Histogram(
            "imago_worker_stage_seconds", "Time from a stage's first message to the next one's",
            ["stage"], buckets=_STAGE_SECONDS, registry=registry,
        )  # fmt: skip
        self.teacher_rows = Counter(
            "imago_worker_teacher_rows", "Rows of soft targets asked of the teacher", registry=registry
        )
        self.leases_lost = Counter(
            "imago_worker_leases_lost", "Leases that passed to another worker", registry=registry
        )
        self.resent = Counter(
            "imago_worker_messages_resent", "Messages sent again by the reconciler", registry=registry
        )


class StageWatch:
    """Turns one attempt's progress into seconds a stage and rows asked of the teacher."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._stage: Stage | None = None
        self._since = 0.0
        self._rows: int | None = None

    def see(self, progress: Progress, now: float) -> None:
        """Take note of a message; `now` is on a steady clock, in seconds."""
        if progress.stage is not self._stage:
            self.end(now)
            self._stage, self._since, self._rows = progress.stage, now, None
        if progress.stage is Stage.TRANSFER_SET and progress.unit == "rows":
            # What the first message counts was there before: a transfer set resumes where it stopped.
            if self._rows is not None and progress.done > self._rows:
                self._metrics.teacher_rows.inc(progress.done - self._rows)
            self._rows = progress.done

    def end(self, now: float) -> None:
        """Close the stage that is under way."""
        if self._stage is not None:
            self._metrics.stage_seconds.labels(self._stage.value).observe(now - self._since)
            self._stage = None
