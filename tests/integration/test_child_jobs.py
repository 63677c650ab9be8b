"""Jobs that make jobs, through a real Redis and real workers of one slot each."""

import signal
import time

import pytest

from shared.contracts.jobs import JobEventKind, JobState
from tests.support.redis_server import RedisServer
from tests.support.worker_jobs import Jobs, StartWorker, gone
from tests.support.worker_process import eventually

pytestmark = pytest.mark.integration

ONCE = ["queued", "running", "waiting", "queued", "running", "succeeded"]


def children_of(jobs: Jobs, parent: str) -> list[str]:
    """Wait until the parent waits; return its children."""
    jobs.until(parent, JobState.WAITING)
    return list(jobs.store.get(parent).children)


def counted(jobs: Jobs, parent: str) -> list[object]:
    events = jobs.store.events(parent)
    return [event.data["done"] for event in events if event.kind is JobEventKind.PROGRESS]


def test_a_parent_and_its_children_end_on_one_worker_of_one_slot(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    worker = start_worker()
    parent = jobs.submit("parent", 2)
    job = jobs.final(parent)
    assert (job.state, job.attempts, job.epoch) == (JobState.SUCCEEDED, 1, 2)
    assert job.result is not None
    assert job.result.teacher == "slow-0-slow-1-slow-2"
    assert jobs.states(parent) == ONCE
    assert counted(jobs, parent) == [0, 1, 2, 3]
    for child in job.children:
        assert jobs.states(child) == ["queued", "running", "succeeded"]
    metrics = worker.get("/metrics").text
    assert 'imago_worker_attempts_total{end="waiting"} 1.0' in metrics
    assert 'imago_worker_jobs_total{kind="teacher",state="succeeded"} 4.0' in metrics


def test_more_parents_than_slots_end_as_well(jobs: Jobs, start_worker: StartWorker) -> None:
    start_worker()
    parents = [jobs.submit("parent", 1) for _ in range(2)]
    assert {jobs.final(parent, 30).state for parent in parents} == {JobState.SUCCEEDED}


def test_a_worker_killed_among_the_children_leaves_each_job_to_end_once(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    first = start_worker()
    parent = jobs.submit("parent", 5)
    children = children_of(jobs, parent)
    jobs.until(children[0], JobState.SUCCEEDED)
    pids = jobs.training(children[1])
    first.kill()
    eventually(lambda: gone(pids), 1, "the child's process died with its worker")
    assert jobs.store.get(parent).state is JobState.WAITING
    start_worker()
    job = jobs.final(parent)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert jobs.states(parent) == ONCE
    assert [jobs.store.get(child).attempts for child in children] == [1, 2, 1]
    assert all(jobs.states(child).count("succeeded") == 1 for child in children)
    assert counted(jobs, parent) == [0, 1, 2, 3]
    assert len(jobs.store.list().jobs) == 4


def test_children_spread_over_workers(jobs: Jobs, start_worker: StartWorker) -> None:
    start_worker()
    start_worker()
    parent = jobs.submit("parent", 8)
    children = children_of(jobs, parent)
    eventually(
        lambda: [jobs.store.get(child).state for child in children].count(JobState.RUNNING) == 2,
        10,
        "two children run at the same time",
    )
    assert jobs.final(parent).state is JobState.SUCCEEDED


def test_a_failed_child_ends_the_whole_family_with_its_reason(jobs: Jobs, start_worker: StartWorker) -> None:
    start_worker()
    start_worker()
    parent = jobs.submit("grieving", 600)
    job = jobs.final(parent)
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.code == "child-failed"
    assert f"{parent}-001" in job.failure.detail
    assert "the loss is nan in epoch 2" in job.failure.detail
    states = [jobs.store.get(child).state.value for child in job.children]
    assert states == ["cancelled", "failed", "cancelled"]


def test_a_cancelled_parent_leaves_no_process_and_no_message_that_matters(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    worker = start_worker()
    parent = jobs.submit("parent", 600)
    children = children_of(jobs, parent)
    pids = jobs.training(children[0])
    assert jobs.store.request_cancel(parent).state is JobState.CANCELLED
    for child in children:
        jobs.until(child, JobState.CANCELLED, 5)
    eventually(lambda: gone(pids), 1, "nothing of the child runs")
    assert worker.children() == []
    assert jobs.final(jobs.submit("quick")).state is JobState.SUCCEEDED


def test_a_redis_that_restarts_among_the_children_changes_nothing(
    jobs: Jobs, start_worker: StartWorker, redis_server: RedisServer
) -> None:
    start_worker(lease_s=8)
    parent = jobs.submit("parent", 8)
    children = children_of(jobs, parent)
    jobs.training(children[1])
    redis_server.stop(signal.SIGKILL)
    try:
        # The second child ends while Redis is away.
        time.sleep(1)
    finally:
        redis_server.start()
    job = jobs.final(parent)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert jobs.states(parent) == ONCE
    assert [jobs.store.get(child).attempts for child in children] == [1, 1, 1]
