"""Promise 1: whatever is killed, each accepted job ends, and commits once."""

import random
import signal
import threading
import time
from pathlib import Path

import pytest
from redis import RedisError

from tests.chaos.fleet import Fleet, artefact_is_its_own, commits, fleet
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WORKERS = 4
OUTSTANDING = 30
"""Jobs that the second half keeps in the queue; the first half comes at once."""


def submit_all(workers: Fleet, jobs: int, accepted: list[str]) -> None:
    """One half in a burst, longer than the queue at which the reconciler stands back; one half steadily."""
    while len(accepted) < jobs:
        if len(accepted) >= jobs // 2:
            while len(accepted) - ended(workers) >= OUTSTANDING:
                time.sleep(0.05)
        accepted.append(workers.submit(epochs=4))


def ended(workers: Fleet) -> int:
    while True:
        try:
            return workers.ended()
        except RedisError:
            time.sleep(0.05)


def test_no_job_is_lost_and_each_commits_once_while_workers_and_redis_are_killed(
    redis_server: RedisServer, tmp_path: Path, sized, told
):
    jobs, worker_kills, redis_kills = sized((40, 3, 1), (2000, 60, 4))
    chance = random.Random(6)
    kills = ["worker"] * worker_kills
    for number in range(redis_kills):
        kills.insert((number + 1) * len(kills) // (redis_kills + 1), "redis")
    began = time.monotonic()
    with fleet(redis_server, tmp_path) as workers:
        for _ in range(WORKERS):
            workers.start()
        accepted: list[str] = []
        submitting = threading.Thread(target=submit_all, args=(workers, jobs, accepted), daemon=True)
        submitting.start()
        for number, victim in enumerate(kills, start=1):
            # By what is done and not by the clock: all kills fall under load, on any machine.
            while ended(workers) < number * jobs // (len(kills) + 1):
                time.sleep(0.02)
            if victim == "redis":
                redis_server.stop(signal.SIGKILL)
                time.sleep(0.5)
                redis_server.start()
            else:
                workers.kill(chance.choice(workers.workers))
                workers.start()
        submitting.join()
        last = time.monotonic()
        while ended(workers) < jobs and time.monotonic() - last < 120:
            time.sleep(0.1)
        took = time.monotonic() - began
        views = [workers.view(job) for job in accepted]
        ends = [commits(workers.events(job)) for job in accepted]
        lost = sum(count == 0 for count in ends)
        odd = [view for view in views if not artefact_is_its_own(view, tmp_path)]
        resent, runs = workers.resent(), sum(view.epoch for view in views)
    for view in odd:
        print(view.model_dump_json())
    under = f"{worker_kills} worker and {redis_kills} Redis `kill -9` under {jobs:,} jobs"
    told(1, f"{under}: lost", f"{lost} of {len(set(accepted)):,}, in {took:.0f} s", "0", held=lost == 0)
    once = sum(count == 1 for count in ends)
    told(1, f"{under}: committed once", f"{once:,} of {jobs:,}", f"{jobs:,}", held=once == jobs)
    own = jobs - len(odd)
    told(
        1,
        f"{under}: ended well, with what its last epoch made",
        f"{own:,} of {jobs:,}",
        f"{jobs:,}",
        held=not odd,
    )
    told(
        1,
        f"{under}: messages sent again",
        f"{resent} ({resent / jobs:.1%}), for {runs - jobs} runs again",
        sized("at most 5 % at full size", "at most 5 %"),
        held=resent <= max(0.05 * jobs, sized(40, 0)),
    )
