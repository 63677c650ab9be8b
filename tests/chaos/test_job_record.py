"""Promise 1: after any crashes, stalls, lapses and doubled messages the record is what a model says."""

from collections.abc import Callable

import pytest

from shared.adapters.redis_client import connect
from shared.adapters.redis_jobs import RedisJobStore
from tests.support.job_record_machine import run_machine

pytestmark = pytest.mark.integration


def test_the_record_in_redis_does_what_the_model_says(
    redis_url: str,
    sized: Callable[[tuple[int, int], tuple[int, int]], tuple[int, int]],
    told: Callable[..., None],
) -> None:
    store, redis = RedisJobStore(redis_url), connect(redis_url)

    def emptied() -> RedisJobStore:
        redis.flushdb()
        return store

    runs, steps = sized((25, 30), (500, 50))
    done: list[int] = []
    # Some runs are short, Hypothesis's simplest examples among them: these do not count.
    while done.count(steps) < runs:
        done += run_machine(emptied, round(1.2 * (runs - done.count(steps))) + 5, steps)
    redis.close()
    store.close()
    whole = done.count(steps)
    told(
        1,
        "hypothesis state machine of the job record",
        f"{whole} runs x {steps} steps, 0 violated",
        f"{runs} x {steps} steps, 0 violated",
        held=whole >= runs,
    )
