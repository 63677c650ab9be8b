"""What is no job's id names no job, whatever else the store keeps under names that look like one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from shared.errors import JobNotFound
from shared.jobs.ports import JobStore
from tests.support.gateway_in_process import MemoryDispatcher, TestClient, refused
from tests.support.job_store import RESULT, running
from tests.support.jobs import teacher_spec

PARENT = "j-parent"
NO_IDS = [f"{PARENT}:events", f"{PARENT}:unfinished", "", "J-PARENT", "j" * 129, "j-1\n", "..", "*", "\x00"]


@pytest.fixture
def parent(store: JobStore) -> JobStore:
    """A store with a job that has everything a record can have."""
    store.submit(PARENT, teacher_spec())
    grant = running(store, job_id=PARENT)
    store.wait(PARENT, grant.epoch, [(f"{PARENT}-000", teacher_spec())])
    return store


@pytest.mark.parametrize("job_id", NO_IDS)
def test_what_is_no_id_is_not_found_by_any_method(parent: JobStore, job_id: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: parent.get(job_id),
        lambda: parent.events(job_id),
        lambda: parent.request_cancel(job_id),
        lambda: parent.request_pause(job_id),
        lambda: parent.resume(job_id),
        lambda: parent.acquire(job_id, 1, 3),
        lambda: parent.renew(job_id, 1, 1),
        lambda: parent.succeed(job_id, 1, RESULT),
        lambda: parent.release(job_id, 1),
        lambda: parent.wait(job_id, 1, [(f"{PARENT}-001", teacher_spec())]),
    ]
    for call in calls:
        with pytest.raises(JobNotFound):
            call()
    assert parent.list(parent=job_id).jobs == ()
    assert [job.id for job in parent.list(parent=PARENT).jobs] == [f"{PARENT}-000"]


@pytest.fixture
def client(parent: JobStore, tmp_path: Path) -> Iterator[TestClient]:
    settings = GatewaySettings(state_dir=tmp_path)
    with TestClient(create_app(settings, jobs=parent, dispatcher=MemoryDispatcher())) as client:
        yield client


@pytest.mark.parametrize("job_id", [f"{PARENT}:events", f"{PARENT}:unfinished", "J-PARENT"])
def test_every_route_of_a_job_answers_404_for_it(client: TestClient, job_id: str) -> None:
    path = f"/v1/jobs/{quote(job_id, safe='')}"
    for route in ("", "/events", "/report", "/report/files/curves.svg", "/checkpoint"):
        refused(client.get(f"{path}{route}"), 404, "job-not-found")
    for verb in ("cancel", "pause", "resume"):
        refused(client.post(f"{path}/{verb}"), 404, "job-not-found")
    listed = client.get("/v1/jobs", params={"parent": job_id})
    assert (listed.status_code, listed.json()["jobs"]) == (200, [])
