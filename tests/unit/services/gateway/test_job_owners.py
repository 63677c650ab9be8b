"""Whoever has a key meets their own jobs only; an administrator meets everybody's."""

from collections.abc import Callable

import pytest

from shared.adapters.web.access import CALLER, Caller
from shared.contracts.keys import Scope
from tests.support.gateway_in_process import InProcessGateway, TestClient, refused

TEACHER = {"kind": "teacher", "name": "digits-teacher", "dataset": "mnist-5k"}
As = Callable[[str], TestClient]


@pytest.fixture
def as_(gateway: InProcessGateway) -> As:
    """Return a client of somebody with a key, as the guard would let them through."""

    def client(owner: str) -> TestClient:
        scopes = frozenset({Scope.ADMIN} if owner == "root" else {Scope.JOBS})

        async def guarded(scope, receive, send):
            await gateway.client.app(scope | {CALLER: Caller(owner, "0" * 12, scopes)}, receive, send)

        return TestClient(guarded)

    return client


def submit(client: TestClient, **headers: str) -> str:
    answer = client.post("/v1/jobs", json=TEACHER, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    job_id: str = answer.json()["id"]
    return job_id


def test_a_job_belongs_to_whoever_submitted_it(gateway, as_):
    assert as_("ada").get(f"/v1/jobs/{submit(as_('ada'))}").json()["owner"] == "ada"
    assert gateway.client.get(f"/v1/jobs/{submit(gateway.client)}").json()["owner"] is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", "/cancel"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("GET", "/events"),
        ("GET", "/report"),
        ("GET", "/report/files/report.json"),
        ("GET", "/checkpoint"),
    ],
)
def test_anothers_job_is_not_found_and_neither_is_nobodys(gateway, as_, method, path):
    for job_id in (submit(as_("ada")), submit(gateway.client)):
        refused(as_("bob").request(method, f"/v1/jobs/{job_id}{path}"), 404, "job-not-found")
        assert gateway.jobs.get(job_id).state == "queued"


def test_an_administrator_sees_and_cancels_everybodys_jobs(as_):
    job_id = submit(as_("ada"))
    assert as_("root").get(f"/v1/jobs/{job_id}").status_code == 200
    assert as_("root").post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert 'data: {"id"' in as_("root").get(f"/v1/jobs/{job_id}/events").text
    assert 'data: {"id"' in as_("ada").get(f"/v1/jobs/{job_id}/events").text


def test_lists_show_ones_own_jobs_and_an_administrator_all(gateway, as_):
    mine, theirs, nobodys = submit(as_("ada")), submit(as_("bob")), submit(gateway.client)

    def listed(client):
        return [job["id"] for job in client.get("/v1/jobs").json()["jobs"]]

    assert listed(as_("ada")) == [mine]
    assert listed(as_("bob")) == [theirs]
    assert listed(as_("root")) == listed(gateway.client) == [nobodys, theirs, mine]


def test_the_same_idempotency_key_of_two_owners_makes_two_jobs(as_):
    key = {"Idempotency-Key": "k-1"}
    first, second = submit(as_("ada"), **key), submit(as_("bob"), **key)
    assert first != second
    assert submit(as_("ada"), **key) == first
