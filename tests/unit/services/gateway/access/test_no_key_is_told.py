"""No key, valid or not, reaches a log, an error body or a span; the id of a valid one does."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.gateway.observability.access_log import AccessLog
from shared.contracts.keys import Scope
from tests.support.gateway_in_process import image_file
from tests.support.keyed_gateway import KeyedGateway, bearer, keyed, store_with_student

LINES: list[bytes] = []


@pytest.fixture(scope="module", params=["short", "long"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KeyedGateway]:
    root: Path = tmp_path_factory.mktemp("gateway")
    store_with_student(root)
    with keyed(root, short=request.param == "short", watchers=[AccessLog(LINES.append)]) as found:
        yield found


def told(answer: httpx.Response) -> dict[str, object]:
    """Return the line of a request: it is written a moment after its answer."""
    identifier = answer.headers["x-request-id"]
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for line in b"".join(LINES).splitlines():
            found: dict[str, object] = json.loads(line)
            if found["request_id"] == identifier:
                return found
        time.sleep(0.005)
    pytest.fail("the request has no line")


def asks(client: httpx.Client, key: dict[str, str]) -> list[httpx.Response]:
    return [
        client.post("/v1/predictions", content=image_file(), headers=key),
        client.post("/v1/predictions", content=b"no image", headers=key),
        client.post("/v1/predictions?cascade=0.5", content=image_file(), headers=key),
        client.post("/v2/models/digits/infer", content=b"{", headers=key),
        client.get("/v1/jobs", headers=key),
        client.get("/v1/jobs/nowhere", headers=key),
        client.post("/v1/keys", json={"name": "a"}, headers=key),
        client.get("/nowhere", headers=key),
    ]


def test_no_log_and_no_answer_has_a_key_and_each_line_has_the_id_of_a_valid_one(
    served: KeyedGateway, caplog: pytest.LogCaptureFixture
):
    key = served.key(Scope.PREDICT, Scope.ADMIN)
    value = key["Authorization"].removeprefix("Bearer ")
    stranger = bearer(value[:-4] + "AAAA")
    other_scheme = {"Authorization": f"Basic {value}"}
    with caplog.at_level(logging.DEBUG), httpx.Client(base_url=served.url, trust_env=False) as client:
        mine = asks(client, key)
        theirs = [*asks(client, stranger), *asks(client, other_scheme)]
        lines = [told(answer) for answer in mine]
        others = [told(answer) for answer in theirs]
    assert {answer.status_code for answer in theirs} == {401}
    assert {200, 404, 422} <= {answer.status_code for answer in mine}
    assert {line.get("key_id") for line in lines} == {value[6:18]}
    assert all("key_id" not in line for line in others)
    secret = value[19:-4]
    said = [
        *(answer.text + str(answer.headers) for answer in mine + theirs),
        *(f"{record.getMessage()} {vars(record)}" for record in caplog.records),
        b"".join(LINES).decode(),
    ]
    assert not [words for words in said if secret in words]


def test_the_answer_that_makes_a_key_is_the_only_one_that_has_it(served: KeyedGateway):
    with httpx.Client(base_url=served.url, trust_env=False, headers=served.key(Scope.ADMIN)) as client:
        made = client.post("/v1/keys", json={"name": "a", "owner": "b", "scopes": ["jobs"]})
        key = made.json()["key"]
        told(made)
        for path in ("/v1/keys", f"/v1/keys/{made.json()['id']}"):
            assert key[19:] not in client.get(path).text
    assert key[19:] not in b"".join(LINES).decode()
