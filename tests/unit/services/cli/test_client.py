"""The client against a gateway in memory."""

import json
from pathlib import Path

import httpx
import pytest

from services.cli.client import GatewayClient
from services.cli.errors import CommandFailed, GatewayRefused, GatewayUnreachable
from tests.unit.services.cli.fake_gateway import SPEC, FakeGateway

URL = "http://gateway.test"


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def client(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> GatewayClient:
    monkeypatch.setattr("services.cli.client.time.sleep", lambda _seconds: None)
    return GatewayClient(URL, transport=gateway.transport())


def test_a_job_is_followed_from_its_first_event_to_its_last(client: GatewayClient, gateway: FakeGateway):
    job = client.submit(SPEC)
    assert list(client.follow(job.id)) == gateway.events


def test_a_broken_stream_is_taken_up_behind_the_last_event(client: GatewayClient, gateway: FakeGateway):
    job = client.submit(SPEC)
    gateway.cut_after = [3, httpx.ConnectError("refused"), 1, 10]
    assert list(client.follow(job.id)) == gateway.events
    asked = [r.headers.get("Last-Event-ID") for r in gateway.seen if r.url.path.endswith("/events")]
    assert asked == [None, "3", "3", "4", "14"]


def test_following_begins_behind_the_event_that_was_named(client: GatewayClient, gateway: FakeGateway):
    job = client.submit(SPEC)
    assert list(client.follow(job.id, after="60")) == gateway.events[60:]


def test_following_a_job_that_ended_before_ends(client: GatewayClient, gateway: FakeGateway):
    job = client.submit(SPEC)
    last = list(client.follow(job.id))[-1]
    assert list(client.follow(job.id, after=last.id)) == []


def test_following_gives_up_where_nothing_answers(client: GatewayClient, gateway: FakeGateway):
    job = client.submit(SPEC)
    gateway.cut_after = [httpx.ConnectError("refused") for _ in range(100)]
    with pytest.raises(GatewayUnreachable, match="refused"):
        list(client.follow(job.id, patience_s=0))


def test_following_an_unknown_job_is_refused_at_once(client: GatewayClient):
    with pytest.raises(GatewayRefused) as refused:
        list(client.follow("nope"))
    assert refused.value.code == "job-not-found"


def test_a_submit_whose_answer_was_lost_is_sent_again_under_the_same_key():
    gateway = FakeGateway()
    keys: list[str] = []

    def flaky(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ReadError("cut")
        return gateway.transport().handle_request(request)

    job = GatewayClient(URL, transport=httpx.MockTransport(flaky)).submit(SPEC)
    assert job.spec == SPEC
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_a_problem_document_becomes_an_error_with_code_and_remedy(client: GatewayClient):
    with pytest.raises(GatewayRefused) as refused:
        client.job("no/such job")
    assert refused.value.status == 404
    assert refused.value.line() == "job-not-found: there is no job 'no/such job'. List jobs."


def test_an_error_that_is_no_problem_document_keeps_its_status():
    transport = httpx.MockTransport(lambda _request: httpx.Response(502, text="<html>bad gateway"))
    with pytest.raises(GatewayRefused, match="bad gateway") as refused:
        GatewayClient(URL, transport=transport).students()
    assert refused.value.code == "http-502"


def test_an_answer_outside_the_contract_is_told_as_such():
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json={"hello": "world"}))
    with pytest.raises(CommandFailed, match="contract"):
        GatewayClient(URL, transport=transport).students()


def test_nobody_there_asks_whether_the_stack_runs(unused_port: int):
    with pytest.raises(GatewayUnreachable) as unreachable:
        GatewayClient(f"http://127.0.0.1:{unused_port}").students()
    assert "imago up" in unreachable.value.line()


@pytest.fixture
def unused_port() -> int:
    from tests.support.redis_server import free_port

    return free_port()


def test_filters_that_were_not_given_are_not_sent(client: GatewayClient, gateway: FakeGateway):
    client.jobs(kind="teacher")
    assert dict(gateway.seen[-1].url.params) == {"kind": "teacher"}


def test_images_are_sent_in_their_order(client: GatewayClient, gateway: FakeGateway, tmp_path: Path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(name.encode())
    answer = client.predict([tmp_path / "b.png", tmp_path / "a.png"], top=2)
    body = gateway.seen[-1].content
    assert len(answer.predictions) == 2
    assert body.index(b'filename="b.png"') < body.index(b'filename="a.png"')
    assert gateway.seen[-1].url.params["top"] == "2"


def test_a_dataset_is_sent_with_its_name_and_files(
    client: GatewayClient, gateway: FakeGateway, tmp_path: Path
):
    (tmp_path / "digits.zip").write_bytes(b"PK-content")
    client.add_dataset("mine", [tmp_path / "digits.zip"])
    body = gateway.seen[-1].content
    assert b'name="name"\r\n\r\nmine' in body
    assert b'filename="digits.zip"' in body
    assert b"PK-content" in body


def test_a_spec_in_bytes_goes_as_it_is(client: GatewayClient, gateway: FakeGateway):
    raw = json.dumps(SPEC.model_dump(mode="json")).encode() + b"\n\n"
    client.submit(raw)
    assert gateway.seen[-1].content == raw
