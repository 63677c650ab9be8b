from collections.abc import Iterator

import pytest

from shared.adapters.redis_jobs import RedisJobStore
from shared.jobs.memory_store import MemoryJobStore
from shared.jobs.ports import JobStore
from tests.support.job_store import SHORT_S


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore(resend_first_s=SHORT_S, resend_longest_s=4 * SHORT_S)
    else:
        redis_store = RedisJobStore(
            request.getfixturevalue("redis_url"), resend_first_s=SHORT_S, resend_longest_s=4 * SHORT_S
        )
        yield redis_store
        redis_store.close()
