"""Jobs through a real Redis and real workers, as tests submit and watch them; the training is a stand-in."""

import json
from collections.abc import Callable
from pathlib import Path

import psutil

from shared.adapters.dispatch import CeleryDispatcher
from shared.adapters.redis_jobs import RedisJobStore
from shared.contracts.jobs import FINAL_STATES, JobEventKind, JobState, JobView
from shared.contracts.training import Budget
from shared.jobs.service import new_job_id
from tests.support.jobs import teacher_spec
from tests.support.worker_process import WorkerProcess, eventually

StartWorker = Callable[..., WorkerProcess]


class Jobs:
    """Submits jobs as the gateway does, and watches them."""

    def __init__(self, store: RedisJobStore, dispatcher: CeleryDispatcher, state_dir: Path) -> None:
        self.store = store
        self.dispatcher = dispatcher
        self.state_dir = state_dir

    def submit(self, name: str, epochs: int = 1, *, send: bool = True) -> str:
        job, _ = self.store.submit(new_job_id(), teacher_spec(name, budget=Budget(epochs=epochs)))
        if send:
            self.dispatcher.send(job.id)
        return job.id

    def until(self, job_id: str, state: JobState, within_s: float = 15) -> float:
        return eventually(lambda: self.store.get(job_id).state is state, within_s, f"{state} {job_id}")

    def final(self, job_id: str, within_s: float = 20) -> JobView:
        eventually(lambda: self.store.get(job_id).state in FINAL_STATES, within_s, f"an end of {job_id}")
        return self.store.get(job_id)

    def training(self, job_id: str) -> list[int]:
        """Wait until the job trains; return the pids of its process and that one's helpers."""
        pids = self.state_dir / f"{job_id}.pids"
        eventually(pids.exists, 10, "the training process counts")
        found: list[int] = json.loads(pids.read_text())
        pids.unlink()
        return found

    def notes(self, job_id: str) -> list[object]:
        return [event.data["text"] for event in self.store.events(job_id) if event.kind is JobEventKind.NOTE]

    def states(self, job_id: str) -> list[object]:
        return [
            event.data["state"] for event in self.store.events(job_id) if event.kind is JobEventKind.STATE
        ]


def gone(pids: list[int]) -> bool:
    return not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
