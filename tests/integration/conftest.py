from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.adapters.dispatch import CeleryDispatcher
from shared.adapters.redis_jobs import RedisJobStore
from tests.support.worker_jobs import Jobs, StartWorker
from tests.support.worker_process import WorkerProcess


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisJobStore]:
    store = RedisJobStore(redis_url, resend_first_s=0.3)
    yield store
    store.close()


@pytest.fixture
def dispatcher(redis_url: str) -> Iterator[CeleryDispatcher]:
    dispatcher = CeleryDispatcher(redis_url)
    yield dispatcher
    dispatcher.close()


@pytest.fixture
def start_worker(redis_url: str, tmp_path: Path) -> Iterator[StartWorker]:
    workers: list[WorkerProcess] = []

    def start(**settings: object) -> WorkerProcess:
        workers.append(WorkerProcess(redis_url, tmp_path, **settings))
        return workers[-1].wait_until_ready()

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture
def jobs(store: RedisJobStore, dispatcher: CeleryDispatcher, tmp_path: Path) -> Jobs:
    return Jobs(store, dispatcher, tmp_path)
