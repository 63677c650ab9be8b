"""Lines of the access log, by the app's way; test_protocol.py has the same for the short way."""

import json
import time

import pytest
from prometheus_client import REGISTRY

from services.gateway.app import create_app
from services.gateway.observability.access_log import AccessLog, line, names_of, whole
from services.gateway.observability.ended import Ended
from shared.artefacts.store import ArtefactStore
from shared.jobs.memory_store import MemoryJobStore
from tests.support.gateway_in_process import (
    PNG_TYPE,
    InProcessGateway,
    MemoryDispatcher,
    TestClient,
    image_file,
)


class Lines:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def __call__(self, lines: bytes) -> None:
        self.pieces.append(lines)

    def events(self) -> list[dict[str, object]]:
        return [json.loads(one) for one in b"".join(self.pieces).splitlines()]


@pytest.fixture
def lines():
    return Lines()


@pytest.fixture
def gateway(settings, lines):
    jobs, dispatcher = MemoryJobStore(), MemoryDispatcher()
    app = create_app(settings, jobs=jobs, dispatcher=dispatcher, watchers=[AccessLog(lines)])
    with TestClient(app) as client:
        yield InProcessGateway(client, ArtefactStore(settings.store_dir), jobs, dispatcher)


def ended(**facts):
    plain = {
        "began": 1.0, "ended": 1.25, "request_id": "a", "method": "GET", "path": "/", "route": None,
        "query": b"", "status": 200, "received_bytes": 0, "sent_bytes": 2,
    }  # fmt: skip
    return Ended(**(plain | facts))


def test_a_request_is_one_line_that_says_what_was_asked_and_what_came_of_it(gateway, lines):
    gateway.promote("digits-1")
    lines.pieces.clear()
    image = image_file()
    answer = gateway.client.post(
        "/v1/predictions?top=2", content=image, headers={**PNG_TYPE, "X-Request-ID": "mine-1"}
    )
    (event,) = lines.events()
    assert event["event"] == "request"
    assert event["request_id"] == answer.headers["x-request-id"] == "mine-1"
    assert (event["method"], event["path"], event["status"]) == ("POST", "/v1/predictions", 200)
    assert (event["received_bytes"], event["sent_bytes"]) == (len(image), len(answer.content))
    assert event["student"] == "digits-1"
    assert 0 < event["ms"] < 60_000


def test_values_of_the_query_headers_and_bodies_are_not_in_it(gateway, lines):
    gateway.client.post(
        "/v1/predictions?top=2&token=secret-1&secret-2",
        content=b"secret-3",
        headers={"Authorization": "Bearer secret-4", "User-Agent": "secret-5", "Cookie": "secret-6"},
    )
    (event,) = lines.events()
    assert event["query"] == ["top", "token"]
    assert b"secret" not in b"".join(lines.pieces)


def test_a_refusal_has_a_line_too(gateway, lines):
    answer = gateway.client.get("/v1/jobs/j-missing")
    (event,) = lines.events()
    assert (event["status"], event["sent_bytes"]) == (answer.status_code, len(answer.content))
    assert event["status"] == 404
    assert "student" not in event


@pytest.mark.parametrize("path", ["/a%0d%0a%7B%22event%22:%22request%22%7D", "/%e2%80%a8/%1b[31m", "/\u00e4"])
def test_no_path_makes_a_second_line_or_reaches_a_terminal(gateway, lines, path):
    gateway.client.get(path)
    (piece,) = lines.pieces
    assert piece.count(b"\n") == 1
    assert piece.isascii()
    assert not any(byte < 0x20 for byte in piece[:-1])


def test_a_hostile_method_or_path_cannot_make_a_second_line():
    written = line(ended(method='GET"}\n{"', path="/\r\n\x1b[31m\x00"), 0.0)
    assert written.count(b"\n") == 1
    assert json.loads(written)["method"] == 'GET"}\n{"'


def test_a_word_without_a_value_is_no_name_and_names_are_bounded():
    assert names_of(b"token&a=1&=2") == ["a", ""]
    assert len(names_of(b"a=1&" * 1000)) <= 16
    assert names_of(b"\xe2\x80\xa8=1") == ["\\xe2\\x80\\xa8"]


def test_lines_of_one_turn_are_few_writes_of_whole_lines():
    written = [line(ended(path=f"/{number}"), 0.0) for number in range(100)]
    pieces = whole(written)
    assert b"".join(pieces) == b"".join(written)
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert len(pieces) < 10
    assert max(map(len, pieces)) <= 4096


def test_the_time_is_that_of_the_answer():
    now = time.time()
    event = json.loads(line(ended(ended=5.0), now - 5.0))
    assert event["at"].startswith(time.strftime("%Y-%m-%dT%H:%M", time.gmtime(now)))
    assert event["ms"] == 4000


def test_answering_goes_on_where_nobody_reads_the_log(settings):
    def broken(_lines: bytes) -> None:
        raise BrokenPipeError

    def untold() -> float:
        return REGISTRY.get_sample_value("imago_untold_requests_total", {"what": "access_log"}) or 0.0

    before = untold()
    app = create_app(
        settings, jobs=MemoryJobStore(), dispatcher=MemoryDispatcher(), watchers=[AccessLog(broken)]
    )
    with TestClient(app) as client:
        assert client.get("/health/live").is_success
        assert client.get("/health/live").is_success
    assert untold() == before + 2
