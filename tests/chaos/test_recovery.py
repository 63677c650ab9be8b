"""Promises 1, 2 and 4: a job survives its worker, runs once, and a poisonous one harms no other."""

import hashlib
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.jobs import JobEventKind, JobState
from shared.contracts.specs import TeacherSpec
from shared.contracts.training import Budget
from tests.chaos.fleet import Fleet, artefact_is_its_own, commits, fleet, stale
from tests.support.redis_server import RedisServer
from tests.support.warm_jobs import warm_jobs
from tests.support.worker_process import WorkerProcess, eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def steps_done(workers: Fleet, job_id: str) -> int:
    progress = workers.view(job_id).progress
    return progress.done if progress is not None else 0


def holder(workers: Fleet, job_id: str) -> WorkerProcess:
    """Return the worker that runs the job, as soon as one does."""
    found: list[WorkerProcess] = []

    def look() -> bool:
        found.extend(
            worker for worker in workers.workers if any(job == job_id for _, job in workers.running(worker))
        )
        return bool(found)

    eventually(look, 30, f"{job_id} runs")
    return found[0]


def test_a_job_of_a_killed_worker_runs_again_within_its_lease_and_two_seconds(
    redis_server: RedisServer, tmp_path: Path, sized, told
):
    rounds, lease_s = sized(2, 10), sized(1.5, 3.0)
    bar_s = lease_s + 2
    took: list[float] = []
    with fleet(redis_server, tmp_path, lease_s=lease_s) as workers:
        workers.start()
        for _ in range(rounds):
            eventually(workers.start().is_ready, 120, "the worker is ready")
            job_id = workers.submit(epochs=40)
            victim = holder(workers, job_id)
            eventually(lambda job_id=job_id: steps_done(workers, job_id) >= 3, 20, "a checkpoint is made")
            workers.kill(victim)
            killed = time.time()
            job = workers.final(job_id)
            assert (job.state, job.attempts, job.epoch) == (JobState.SUCCEEDED, 2, 2)
            # By the record's own clock: when the second process said its first word, from which step.
            note = [event for event in workers.events(job_id) if event.kind is JobEventKind.NOTE][1]
            assert "from 0" not in str(note.data["text"])
            took.append(note.at.timestamp() - killed)
    told(
        2,
        f"worker `kill -9`, lease {lease_s:g} s: running again from its checkpoint",
        f"{rounds} of {rounds} within {max(took):.1f} s",
        f"{bar_s:g} s",
        held=max(took) <= sized(bar_s + 10, bar_s),
    )


def test_a_job_ten_times_as_long_as_its_lease_takes_one_attempt(
    redis_server: RedisServer, tmp_path: Path, told
):
    with fleet(redis_server, tmp_path, lease_s=0.5) as workers:
        for _ in range(2):
            workers.start()
        job_id = workers.submit(epochs=100)
        job = workers.final(job_id)
        moves = [event.at.timestamp() for event in workers.events(job_id) if event.kind is JobEventKind.STATE]
    assert job.state is JobState.SUCCEEDED
    leases = (moves[-1] - moves[1]) / 0.5
    what = f"a job as long as {leases:.0f} leases, 2 workers"
    told(1, what, f"{job.attempts} attempt", "1", held=leases >= 10 and job.attempts == job.epoch == 1)


def test_a_worker_that_is_paused_beyond_its_lease_writes_nothing_when_it_wakes(
    redis_server: RedisServer, tmp_path: Path, sized, told
):
    pauses, at_once = sized((2, 1), (50, 3))
    jobs: list[str] = []
    turn = threading.Lock()
    with fleet(redis_server, tmp_path, lease_s=1, reconcile_s=0.2) as workers:
        started = [workers.start() for _ in range(2 * at_once + 1)]
        for worker in started:  # many at once, on a machine that may have much else to do
            eventually(worker.is_ready, 120, "the worker is ready")

        def pause(times: int, steps: int) -> None:
            for number in range(times):
                with turn:
                    job_id = workers.submit(epochs=steps)
                    jobs.append(job_id)
                holding = holder(workers, job_id)
                # The process that trains is paused with its worker, and wakes with it, before or after.
                pid = next(pid for pid, job in workers.running(holding) if job == job_id)
                stopped = [psutil.Process(holding.process.pid), psutil.Process(pid)]
                for process in stopped:
                    process.suspend()
                eventually(lambda job_id=job_id: workers.view(job_id).epoch >= 2, 60, "another took over")
                for process in stopped[:: 1 if number % 2 else -1]:
                    # A worker that woke first has found its lease gone, and killed the process.
                    with suppress(psutil.NoSuchProcess):
                        process.resume()
                workers.final(job_id)
                eventually(
                    lambda holding=holding: not holding.children(), 20, "the woken worker let its child go"
                )

        threads = [threading.Thread(target=pause, args=(pauses // at_once, 8)) for _ in range(at_once)]
        threads.append(threading.Thread(target=pause, args=(pauses % at_once, 8)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(jobs) == pauses, "a thread gave up"
        told_by_all = [workers.events(job) for job in jobs]
        late = sum(map(stale, told_by_all))
        once = sum(commits(events) == 1 for events in told_by_all)
        own = sum(artefact_is_its_own(workers.view(job), tmp_path) for job in jobs)
    what = f"{pauses} pauses (SIGSTOP) beyond the lease"
    told(1, f"{what}: writes of the paused", f"{late}", "0", held=late == 0)
    told(
        1,
        f"{what}: committed once, by the last epoch",
        f"{min(once, own)} of {pauses}",
        f"{pauses}",
        held=once == own == pauses,
    )


def test_a_poisonous_job_fails_after_three_attempts_and_nobody_else_notices(
    redis_server: RedisServer, tmp_path: Path, sized, told
):
    poisons, others = sized((1, 3), (5, 25))
    with fleet(redis_server, tmp_path) as workers:
        worker = workers.start()
        poisonous = [workers.submit(f"poison-{number}") for number in range(poisons)]
        harmless = [workers.submit() for _ in range(others)]
        ends = [workers.final(job) for job in poisonous]
        well = [workers.final(job) for job in harmless]
        assert worker.process.poll() is None
    given_up = sum(
        (job.state, job.attempts) == (JobState.FAILED, 3)
        and job.failure is not None
        and job.failure.code == "worker-died"
        and "SIGKILL" in job.failure.detail
        for job in ends
    )
    told(
        4,
        "jobs that kill their process: failed after 3 attempts with the reason, the worker the same process",
        f"{given_up} of {poisons}",
        f"{poisons}",
        held=given_up == poisons,
    )
    unharmed = sum((job.state, job.attempts) == (JobState.SUCCEEDED, 1) for job in well)
    told(4, "jobs beside them", f"{unharmed} of {others} at once", f"{others}", held=unharmed == others)


def digest(state_dir: Path) -> str:
    teachers = ArtefactStore(state_dir / "store").teachers
    weights = teachers.file(teachers.current("real-teacher"), "model.safetensors")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_training_that_is_stopped_again_and_again_ends_with_the_weights_of_an_undisturbed_one(
    redis_server: RedisServer, tmp_path: Path, sized, told
):
    stops = sized(1, 10)
    spec = TeacherSpec(
        name="real-teacher",
        dataset="mnist-5k",
        architecture=Mlp(hidden_units=(512,)),
        budget=Budget(epochs=15 * (stops + 1)),
    )
    # A process for each attempt, forked from one that has imported torch already; full size imports anew.
    with (
        warm_jobs(tmp_path) as warm,
        fleet(
            redis_server,
            tmp_path,
            training_module=sized(warm, "services.worker.training_process"),
            threads=1,
            checkpoint_s=0,
            shutdown_grace_s=20,
        ) as workers,
    ):
        worker = workers.start()
        assert workers.final(workers.submit_unchecked(spec), 120).state is JobState.SUCCEEDED
        undisturbed = digest(tmp_path)
        job_id = workers.submit_unchecked(spec)
        for _ in range(stops):
            before = steps_done(workers, job_id)
            eventually(lambda before=before: steps_done(workers, job_id) > before, 120, "it trains")
            worker.terminate(30)
            workers.workers.remove(worker)
            worker = workers.start()
        job = workers.final(job_id, 120)
        assert job.state is JobState.SUCCEEDED, job.failure
        same = digest(tmp_path) == undisturbed
    told(
        2,
        f"one real training through {stops} SIGTERMs of its worker",
        f"weights {'equal' if same else 'differ'}, {job.attempts} attempt, {job.epoch} runs",
        "weights equal bit for bit, 1 attempt",
        held=same and job.attempts == 1 and job.epoch == stops + 1,
    )
