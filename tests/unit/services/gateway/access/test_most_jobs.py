"""An owner with too many jobs is told so by the gateway, and other owners are not."""

from pathlib import Path

import httpx

from shared.contracts.keys import Scope
from shared.jobs.memory_store import MemoryJobStore
from tests.support.jobs import teacher_spec
from tests.support.keyed_gateway import keyed


def test_the_gateway_says_so_with_429_and_when_to_come_again(tmp_path: Path) -> None:
    with keyed(tmp_path, jobs=MemoryJobStore(most_unfinished=1)) as gateway:
        order = teacher_spec().model_dump(mode="json") | {"dataset": "mnist-5k"}
        headers = gateway.key(Scope.JOBS, owner="ada")
        assert httpx.post(f"{gateway.url}/v1/jobs", json=order, headers=headers, timeout=30).is_success
        answer = httpx.post(f"{gateway.url}/v1/jobs", json=order, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (429, "too-many-jobs")
        assert answer.headers["Retry-After"] == "60"
        headers = gateway.key(Scope.JOBS, owner="bob")
        assert httpx.post(f"{gateway.url}/v1/jobs", json=order, headers=headers, timeout=30).is_success
