"""Jobs through a real worker, a real Redis and real training processes that train a stand-in."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.contracts.jobs import JobState
from tests.support.redis_server import RedisServer
from tests.support.worker_jobs import Jobs, StartWorker, gone
from tests.support.worker_process import ROOT, eventually

pytestmark = pytest.mark.integration


def test_a_job_runs_to_its_end_and_tells_how(jobs: Jobs, start_worker: StartWorker, tmp_path: Path) -> None:
    worker = start_worker()
    job_id = jobs.submit("slow", 8)
    job = jobs.final(job_id)
    assert (job.state, job.attempts, job.epoch) == (JobState.SUCCEEDED, 1, 1)
    assert job.result is not None
    assert job.result.teacher == "slow"
    assert job.progress is not None
    assert (job.progress.done, job.progress.total) == (8, 8)
    assert jobs.states(job_id) == ["queued", "running", "succeeded"]
    assert jobs.notes(job_id) == ["from 0"]
    metrics = worker.get("/metrics").text
    assert 'imago_worker_jobs_total{kind="teacher",state="succeeded"} 1.0' in metrics
    assert 'imago_worker_stage_seconds_count{stage="train"} 1.0' in metrics
    assert "imago_worker_jobs_running 0.0" in metrics
    assert worker.get("/health/live").status_code == 200
    assert worker.get("/nowhere").status_code == 404
    heartbeat = tmp_path / "worker.heartbeat"
    eventually(heartbeat.exists, 3, "a heartbeat")
    worker.terminate()
    assert not heartbeat.exists()
    events = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    assert {"job taken", "job ended"} <= {event["event"] for event in events if event.get("job_id") == job_id}


def test_a_failure_keeps_its_code_and_is_not_tried_again(jobs: Jobs, start_worker: StartWorker) -> None:
    start_worker()
    job = jobs.final(jobs.submit("wrong"))
    assert (job.state, job.attempts) == (JobState.FAILED, 1)
    assert job.failure is not None
    assert job.failure.code == "diverged"


def test_a_poison_job_is_given_up_after_three_attempts_and_the_next_one_runs(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    worker = start_worker()
    began = time.monotonic()
    poison, next_one = jobs.submit("poison"), jobs.submit("chatty")
    job = jobs.final(poison)
    assert (job.state, job.attempts) == (JobState.FAILED, 3)
    assert job.failure is not None
    assert job.failure.code == "worker-died"
    assert "SIGKILL" in job.failure.detail
    assert jobs.final(next_one).state is JobState.SUCCEEDED
    assert time.monotonic() - began < 10
    assert 'imago_worker_attempts_total{end="died"} 3.0' in worker.get("/metrics").text


def test_a_process_that_waits_for_children_it_never_asked_for_has_died(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    start_worker(max_attempts=1)
    job = jobs.final(jobs.submit("hasty"))
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert "exit status 76" in job.failure.detail


@pytest.mark.parametrize("name", ["slow", "deaf", "lingering"])
def test_a_running_job_is_cancelled_within_seconds_and_leaves_no_process(
    jobs: Jobs, start_worker: StartWorker, name: str
) -> None:
    worker = start_worker(shutdown_grace_s=60)
    job_id = jobs.submit(name, 600)
    pids = jobs.training(job_id)
    jobs.store.request_cancel(job_id)
    assert jobs.until(job_id, JobState.CANCELLED) < 5
    eventually(lambda: gone(pids), 1, "nothing of the job runs")
    assert worker.children() == []
    assert jobs.final(jobs.submit("quick")).state is JobState.SUCCEEDED


@pytest.mark.parametrize("name", ["slow", "deaf"])
def test_a_running_job_is_paused_within_seconds_and_goes_on_from_its_checkpoint(
    jobs: Jobs, start_worker: StartWorker, name: str
) -> None:
    worker = start_worker()
    job_id = jobs.submit(name, 25)
    pids = jobs.training(job_id)
    eventually(lambda: jobs.store.get(job_id).progress is not None, 5, "an epoch is done")
    jobs.store.request_pause(job_id)
    assert jobs.until(job_id, JobState.PAUSED) < 5
    eventually(lambda: gone(pids), 1, "nothing of the job runs")
    assert worker.children() == []
    # Its worker is free, and neither messages nor the reconciler start it again.
    jobs.dispatcher.send(job_id)
    assert jobs.final(jobs.submit("quick")).state is JobState.SUCCEEDED
    assert (jobs.store.get(job_id).state, jobs.store.get(job_id).attempts) == (JobState.PAUSED, 0)
    jobs.store.resume(job_id)
    job = jobs.final(job_id)
    assert (job.state, job.attempts, job.epoch) == (JobState.SUCCEEDED, 1, 2)
    assert jobs.states(job_id) == ["queued", "running", "running", "paused", "queued", "running", "succeeded"]
    begun, resumed = jobs.notes(job_id)
    assert begun == "from 0"
    # One that does not leave in time is killed, and has no newer checkpoint than its last one: here none.
    assert (resumed == "from 0") is (name == "deaf")


def test_a_job_that_is_to_pause_when_its_worker_is_killed_is_not_run_again(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    first = start_worker(cancel_poll_s=60, lease_s=2)
    job_id = jobs.submit("slow", 600)
    jobs.training(job_id)
    start_worker()
    # Between its renewals, so that the request is not heard of.
    first.process.send_signal(signal.SIGSTOP)
    jobs.store.request_pause(job_id)
    first.kill()
    jobs.until(job_id, JobState.PAUSED, 10)
    assert jobs.states(job_id) == ["queued", "running", "running", "paused"]
    assert jobs.store.get(job_id).epoch == 1


def test_a_parent_that_waits_is_paused_with_its_children_and_all_go_on(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    start_worker(concurrency=2)
    job_id = jobs.submit("parent", 20)
    eventually(
        lambda: any(job.progress is not None for job in jobs.store.list(parent=job_id).jobs),
        10,
        "a child trains",
    )
    assert jobs.store.request_pause(job_id).state is JobState.PAUSED
    # On a slow machine one may have ended by itself before the pause.
    eventually(
        lambda: (
            {job.state for job in jobs.store.list(parent=job_id).jobs} - {JobState.SUCCEEDED}
            == {JobState.PAUSED}
        ),
        15,
        "all paused",
    )
    jobs.store.resume(job_id)
    job = jobs.final(job_id)
    assert job.state is JobState.SUCCEEDED
    assert job.result is not None
    assert job.result.teacher == "slow-0-slow-1-slow-2"
    assert sum(child.epoch for child in jobs.store.list(parent=job_id).jobs) > 3


def test_a_killed_worker_takes_its_child_along_and_another_finishes_the_job(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    first = start_worker()
    job_id = jobs.submit("slow", 30)
    pids = jobs.training(job_id)
    second = start_worker()
    first.kill()
    eventually(lambda: gone(pids), 1, "the child died with its worker")
    job = jobs.final(job_id)
    assert (job.state, job.attempts, job.epoch) == (JobState.SUCCEEDED, 2, 2)
    assert jobs.states(job_id) == ["queued", "running", "running", "succeeded"]
    second.terminate()


def test_a_stopped_worker_hands_its_job_back_with_a_checkpoint_and_without_a_lost_attempt(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    first = start_worker()
    job_id = jobs.submit("slow", 15)
    pids = jobs.training(job_id)
    time.sleep(0.5)
    assert first.terminate() < 5
    assert gone(pids)
    assert jobs.store.get(job_id).state is JobState.QUEUED
    start_worker()
    job = jobs.final(job_id)
    assert (job.state, job.attempts, job.epoch) == (JobState.SUCCEEDED, 1, 2)
    begun, resumed = jobs.notes(job_id)
    assert begun == "from 0"
    assert resumed != "from 0"


def test_a_job_whose_message_was_lost_runs_all_the_same(jobs: Jobs, start_worker: StartWorker) -> None:
    start_worker()
    assert jobs.final(jobs.submit("quick", send=False), 5).state is JobState.SUCCEEDED


def test_a_message_that_comes_often_late_or_for_nothing_changes_nothing(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    worker = start_worker()
    job_id = jobs.submit("quick")
    for _ in range(5):
        jobs.dispatcher.send(job_id)
    jobs.dispatcher.send("j-nobodys")
    assert jobs.final(job_id).attempts == 1
    assert jobs.final(jobs.submit("quick")).state is JobState.SUCCEEDED
    assert jobs.store.get(job_id).epoch == 1
    assert 'imago_worker_attempts_total{end="finished"} 2.0' in worker.get("/metrics").text


def test_a_job_far_longer_than_its_lease_runs_once(jobs: Jobs, start_worker: StartWorker) -> None:
    start_worker(lease_s=0.6)
    start_worker(lease_s=0.6)
    job = jobs.final(jobs.submit("slow", 60))
    assert (job.state, job.attempts, job.epoch) == (JobState.SUCCEEDED, 1, 1)


def test_a_worker_that_was_paused_past_its_lease_writes_nothing_when_it_wakes(
    jobs: Jobs, start_worker: StartWorker
) -> None:
    paused = start_worker()
    job_id = jobs.submit("slow", 60)
    pids = jobs.training(job_id)
    paused.process.send_signal(signal.SIGSTOP)
    start_worker()
    eventually(lambda: jobs.store.get(job_id).epoch == 2, 10, "the second worker took over")
    paused.process.send_signal(signal.SIGCONT)
    eventually(lambda: gone(pids), 5, "the first worker stopped its child")
    assert "imago_worker_leases_lost_total 1.0" in paused.get("/metrics").text
    job = jobs.final(job_id)
    assert (job.state, job.attempts, job.epoch) == (JobState.SUCCEEDED, 2, 2)
    assert jobs.states(job_id) == ["queued", "running", "running", "succeeded"]


def test_training_goes_on_while_redis_restarts(
    jobs: Jobs, start_worker: StartWorker, redis_server: RedisServer
) -> None:
    worker = start_worker(lease_s=8)
    job_id = jobs.submit("slow", 40)
    pids = jobs.training(job_id)
    redis_server.stop(signal.SIGKILL)
    try:
        time.sleep(1)
        assert worker.get("/health/ready").status_code == 503
        assert worker.get("/health/live").status_code == 200
        assert not gone(pids)
    finally:
        redis_server.start()
    job = jobs.final(job_id)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert jobs.final(jobs.submit("quick")).state is JobState.SUCCEEDED


def test_an_outage_longer_than_the_lease_stops_training_and_costs_no_attempt(
    jobs: Jobs, start_worker: StartWorker, redis_server: RedisServer
) -> None:
    start_worker()
    job_id = jobs.submit("slow", 50)
    pids = jobs.training(job_id)
    redis_server.stop(signal.SIGKILL)
    try:
        eventually(lambda: gone(pids), 5, "training stops once the lease may be another's")
    finally:
        redis_server.start()
    job = jobs.final(job_id)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert jobs.notes(job_id)[-1] != "from 0"


def test_a_wrong_setting_is_told_in_one_line_before_anything_starts() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.worker"],
        cwd=ROOT,
        env={**os.environ, "WORKER_CONCURRENCY": "none", "WORKER_LEASE_S": "-1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("WORKER_CONCURRENCY:")
    assert lines[1].startswith("WORKER_LEASE_S:")


def test_a_health_port_that_is_taken_is_told_in_one_line(start_worker: StartWorker, redis_url: str) -> None:
    holder = start_worker()
    ended = subprocess.run(
        [sys.executable, "-m", "services.worker"],
        cwd=ROOT,
        env={**os.environ, "WORKER_HEALTH_PORT": str(holder.port), "REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("WORKER_HEALTH_PORT: cannot listen on")
    assert "Traceback" not in ended.stderr
