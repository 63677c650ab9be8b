"""Both clients against a gateway in memory."""

import io
import json
from pathlib import Path

import httpx
import pytest

from shared.client import AnswerNotUnderstood, GatewayError, GatewayRefused, GatewayUnreachable, Retries
from shared.contracts.jobs import JobState
from tests.support.both_clients import Clients
from tests.support.fake_gateway import SPEC, FakeGateway
from tests.support.redis_server import free_port


@pytest.fixture
def client(clients: Clients, gateway: FakeGateway):
    return clients(transport=gateway.transport())


def test_a_job_is_followed_from_its_first_event_to_its_last(client, gateway: FakeGateway):
    job = client.submit(SPEC)
    assert list(client.follow(job.id)) == gateway.events


def test_a_broken_stream_is_taken_up_behind_the_last_event(client, gateway: FakeGateway):
    job = client.submit(SPEC)
    gateway.cut_after = [3, httpx.ConnectError("refused"), 1, 10]
    assert list(client.follow(job.id)) == gateway.events
    asked = [r.headers.get("Last-Event-ID") for r in gateway.seen if r.url.path.endswith("/events")]
    assert asked == [None, "3", "3", "4", "14"]


def test_following_begins_behind_the_event_that_was_named(client, gateway: FakeGateway):
    job = client.submit(SPEC)
    assert list(client.follow(job.id, after="60")) == gateway.events[60:]


def test_following_a_job_that_ended_before_ends(client):
    job = client.submit(SPEC)
    last = list(client.follow(job.id))[-1]
    assert list(client.follow(job.id, after=last.id)) == []


def test_following_gives_up_where_nothing_answers(client, gateway: FakeGateway):
    job = client.submit(SPEC)
    gateway.cut_after = [httpx.ConnectError("refused") for _ in range(100)]
    with pytest.raises(GatewayUnreachable, match="refused"):
        list(client.follow(job.id, patience_s=0))


def test_following_an_unknown_job_is_refused_at_once(client):
    with pytest.raises(GatewayRefused) as refused:
        list(client.follow("nope"))
    assert refused.value.code == "job-not-found"


def test_a_job_that_was_waited_for_is_returned_as_it_ended(client, gateway: FakeGateway):
    gateway.ends_as = JobState.FAILED
    assert client.wait(client.submit(SPEC).id).state is JobState.FAILED


def test_a_problem_document_becomes_an_error_with_code_and_remedy(client):
    with pytest.raises(GatewayRefused, match="there is no job 'no/such job'") as refused:
        client.job("no/such job")
    assert (refused.value.status, refused.value.code) == (404, "job-not-found")
    assert refused.value.remedy == "List jobs."


def test_errors_name_the_request_as_the_logs_of_the_gateway_do(clients: Clients):
    seen: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["X-Request-ID"])
        if request.url.path.endswith("students"):
            raise httpx.ConnectError("refused")
        return httpx.Response(500, text="no", headers={"X-Request-ID": seen[-1]})

    client = clients(answer=refuse)
    for ask in (client.teachers, client.students):
        with pytest.raises(GatewayError) as error:
            ask()
        assert error.value.request_id == seen[-1]
    assert len(set(seen)) == 2  # the attempts at one call have one name


def test_an_error_that_is_no_problem_document_keeps_its_status(clients: Clients):
    client = clients(answer=lambda _request: httpx.Response(502, text="<html>bad gateway"))
    with pytest.raises(GatewayRefused, match="bad gateway") as refused:
        client.students()
    assert refused.value.code == "http-502"


def test_a_redirection_is_not_taken_for_an_answer(clients: Clients):
    client = clients(answer=lambda _request: httpx.Response(307, headers={"Location": "http://else/"}))
    with pytest.raises(GatewayRefused) as refused:
        client.delete_transfer_set("ab")
    assert refused.value.status == 307


def test_an_answer_outside_the_contract_is_told_as_such(clients: Clients):
    client = clients(answer=lambda _request: httpx.Response(200, json={"hello": "world"}))
    with pytest.raises(AnswerNotUnderstood, match="contract"):
        client.students()


def test_nobody_there_asks_whether_the_gateway_runs(clients: Clients):
    client = clients(f"http://127.0.0.1:{free_port()}", retries=Retries(attempts=1))
    with pytest.raises(GatewayUnreachable) as unreachable:
        client.students()
    assert "imago up" in unreachable.value.remedy


def test_an_address_that_is_none_is_told(clients: Clients):
    with pytest.raises(GatewayUnreachable, match="port"):
        clients("http://gateway:nine").students()


def test_filters_that_were_not_given_are_not_sent(client, gateway: FakeGateway):
    client.jobs(kind="teacher", state=JobState.RUNNING)
    assert dict(gateway.seen[-1].url.params) == {"kind": "teacher", "state": "running"}


def test_a_spec_in_bytes_goes_as_it_is(client, gateway: FakeGateway):
    raw = json.dumps(SPEC.model_dump(mode="json")).encode() + b"\n\n"
    client.submit(raw)
    assert gateway.seen[-1].content == raw


def test_not_being_ready_is_an_answer(clients: Clients):
    said = {"ready": False, "student": None, "draining": True, "problem": None}
    client = clients(answer=lambda _request: httpx.Response(503, json=said))
    assert client.ready().draining


def test_what_a_proxy_asks_for_is_sent_with_every_request(clients: Clients, gateway: FakeGateway):
    clients(transport=gateway.transport(), headers={"Authorization": "Bearer key"}).students()
    assert gateway.seen[-1].headers["Authorization"] == "Bearer key"


# --- files -------------------------------------------------------------------------------------------------


def test_a_dataset_is_sent_with_its_name_size_and_files(client, gateway: FakeGateway, tmp_path: Path):
    content = bytes(range(256)) * 4000
    (tmp_path / 'di"gits.zip').write_bytes(content)
    told: list[int] = []
    client.add_dataset("mine", [tmp_path / 'di"gits.zip'], size=(28, 32), sent=told.append)
    request = gateway.seen[-1]
    assert b'name="name"\r\n\r\nmine\r\n' in request.content
    assert b'name="size"\r\n\r\n28x32\r\n' in request.content
    assert b'filename="di%22gits.zip"' in request.content
    assert content in request.content
    assert int(request.headers["Content-Length"]) == len(request.content)
    assert sum(told) == len(content)
    assert len(told) > 1  # piece by piece


def test_a_file_that_is_not_there_is_told_before_anything_is_sent(
    client, gateway: FakeGateway, tmp_path: Path
):
    with pytest.raises(FileNotFoundError):
        client.add_dataset("mine", [tmp_path / "nowhere.zip"])
    assert not gateway.seen


def test_a_download_is_written_while_it_arrives(clients: Clients):
    content = bytes(range(256)) * 1000
    client = clients(answer=lambda _request: httpx.Response(200, content=content))
    file = io.BytesIO()
    assert client.download_student_file("v-1", "model.onnx", file) == len(content)
    assert file.getvalue() == content


def test_the_words_of_a_refused_download_are_not_written(client):
    file = io.BytesIO()
    with pytest.raises(GatewayRefused):
        client.download_transfer_set("ab" * 32, file)
    assert file.getvalue() == b""


class Torn(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __iter__(self):
        yield b"half"
        raise httpx.ReadError("cut")

    async def __aiter__(self):
        for piece in self:
            yield piece


def test_a_download_that_broke_off_is_not_begun_again_into_the_same_file(clients: Clients):
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, stream=Torn())

    file = io.BytesIO()
    with pytest.raises(GatewayUnreachable, match="cut"):
        clients(answer=answer).download_transfer_set("ab" * 32, file)
    assert file.getvalue() == b"half"
    assert len(asked) == 1
