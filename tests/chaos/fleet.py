"""Real workers on a real Redis, jobs sent to them as the gateway does, and what became of each."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from shared.adapters.dispatch import CeleryDispatcher
from shared.adapters.redis_jobs import RedisJobStore
from shared.contracts.jobs import FINAL_STATES, JobEvent, JobEventKind, JobState, JobView
from shared.contracts.specs import JobSpec
from shared.contracts.training import Budget
from shared.errors import JobStoreUnavailable
from shared.jobs.service import JobService, new_job_id
from tests.support.jobs import KnownThings, teacher_spec
from tests.support.redis_server import RedisServer
from tests.support.worker_process import WorkerProcess, eventually

FINAL = {state.value for state in FINAL_STATES}


class Fleet:
    """`settings` are those of every worker, without their prefix; `start` may say others."""

    def __init__(self, server: RedisServer, state_dir: Path, **settings: object) -> None:
        self.state_dir = state_dir
        self.server = server
        self.store = RedisJobStore(server.url)
        self._dispatcher = CeleryDispatcher(server.url)
        self._service = JobService(self.store, self._dispatcher, KnownThings())
        self._settings: dict[str, object] = {
            "training_module": "tests.chaos.light_training", "lease_s": 3, "reconcile_s": 1,
        } | settings  # fmt: skip
        self.workers: list[WorkerProcess] = []
        self._logs: list[Path] = []
        self._numbers = itertools.count()

    def start(self, **settings: object) -> WorkerProcess:
        """Start a worker and return at once."""
        worker = WorkerProcess(self.server.url, self.state_dir, **self._settings | settings)
        self.workers.append(worker)
        self._logs.append(worker.log)
        return worker

    def kill(self, worker: WorkerProcess) -> None:
        """Kill a worker as a crash does."""
        self.workers.remove(worker)
        worker.kill()

    def submit(self, name: str = "work", epochs: int = 4) -> str:
        """Submit as the gateway does; while Redis is away as its client does: again, with the same key."""
        key = f"key-{next(self._numbers)}"
        while True:
            try:
                return self._service.submit(teacher_spec(name, budget=Budget(epochs=epochs)), key)[0].id
            except JobStoreUnavailable:
                time.sleep(0.05)

    def submit_unchecked(self, spec: JobSpec) -> str:
        """Record a job and send its message, whatever the catalogue knows."""
        job, _ = self.store.submit(new_job_id(), spec)
        self._dispatcher.send(job.id)
        return job.id

    def final(self, job_id: str, within_s: float = 60) -> JobView:
        """Wait for the job's end; return it."""
        eventually(lambda: self.view(job_id).state in FINAL_STATES, within_s, f"an end of {job_id}")
        return self.view(job_id)

    def view(self, job_id: str) -> JobView:
        """Return the job as it is, as soon as Redis answers."""
        while True:
            try:
                return self.store.get(job_id)
            except JobStoreUnavailable:
                time.sleep(0.05)

    def events(self, job_id: str) -> Sequence[JobEvent]:
        """Return all that the record tells of a job."""
        return self.store.events(job_id, limit=10_000)

    def ended(self) -> int:
        """Return how many jobs have ended; raises a `RedisError` while Redis is away."""
        with Redis.from_url(self.server.url, socket_timeout=2) as client:
            return sum(client.zcard(f"imago:index:{state}:*") for state in FINAL)

    def recorded(self) -> int:
        """Return how many jobs the record knows."""
        with Redis.from_url(self.server.url, socket_timeout=2) as client:
            return int(client.zcard("imago:index:*:*"))

    def resent(self) -> int:
        """Return how many messages were sent again, by the logs of all workers, the dead as well."""
        return sum(log.read_text(errors="replace").count("sending the message again") for log in self._logs)

    def running(self, worker: WorkerProcess) -> list[tuple[int, str]]:
        """Return pid and job of each training process of the worker."""
        found = []
        for child in worker.children():
            place = self.state_dir / "running" / str(child.pid)
            if place.exists() and (job_id := place.read_text()):
                found.append((child.pid, job_id))
        return found

    def close(self) -> None:
        """Kill what still runs."""
        for worker in self.workers:
            worker.close()
        self._dispatcher.close()
        self.store.close()


@contextmanager
def fleet(server: RedisServer, state_dir: Path, **settings: object) -> Iterator[Fleet]:
    """Yield workers on an emptied Redis, none yet; kill them at the end."""
    server.flush()
    made = Fleet(server, state_dir, **settings)
    try:
        yield made
    finally:
        made.close()


def commits(events: Sequence[JobEvent]) -> int:
    """Return how often a job came to an end: the record writes an event for each."""
    return sum(event.kind is JobEventKind.STATE and event.data["state"] in FINAL for event in events)


def stale(events: Sequence[JobEvent]) -> int:
    """Return how many events came from a process whose epoch was not the newest any more.

    What `light_training` says carries its epoch; the record's own events say which is granted.
    """
    granted, found = 0, 0
    for event in events:
        if event.kind is JobEventKind.STATE:
            granted = int(str(event.data["epoch"]))
            continue
        if event.kind is JobEventKind.NOTE:
            said = int(str(event.data["text"]).split()[1])
        else:
            metrics = event.data["metrics"]
            assert isinstance(metrics, dict)
            said = int(metrics["epoch"])
        found += said != granted
    return found


def artefact_is_its_own(job: JobView, state_dir: Path) -> bool:
    """Tell whether the result that was committed is what the last epoch made."""
    return (
        job.state is JobState.SUCCEEDED
        and job.result is not None
        and job.result.artefact == f"{job.id}-{job.epoch}"
        and (state_dir / "artefacts" / job.result.artefact).exists()
    )
