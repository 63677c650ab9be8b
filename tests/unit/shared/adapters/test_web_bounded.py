"""Connections with bounds that are small enough to wait for."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from shared.adapters.web import bounded
from shared.adapters.web.boundary import Boundary
from shared.adapters.web.bounded import MOST_AHEAD, MOST_HEADERS, BoundedProtocol


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer once the body is whole, and after a moment where the path says so."""
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    body = b"%d" % size
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(bounded, "HEAD_S", 0.4)
    monkeypatch.setattr(bounded, "BODY_S", 0.4)
    monkeypatch.setattr(bounded, "_LOOK_S", 0.05)
    monkeypatch.setattr(bounded, "most_connections", lambda: 16)
    server = uvicorn.Server(
        uvicorn.Config(
            Boundary(echo, limit_bytes=10**6), port=0, http=BoundedProtocol, ws="none", lifespan="off",
            log_config=None, access_log=False, timeout_graceful_shutdown=5,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


def talk(port: int, *pieces: bytes, every_s: float = 0.0, most: int = 10**6) -> bytes:
    """Send the pieces until the other side has had enough; return all that it says."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(every_s)
        except OSError:
            pass
        found = b""
        try:
            while len(found) < most and (data := connection.recv(2**16)):
                found += data
        except ConnectionError:
            pass
        return found


def status(answer: bytes) -> int:
    return int(answer[9:12] or 0)


GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nContent-Length: 60\r\n\r\n"
LAST = b"Connection: close\r\n\r\n"


def test_a_request_within_all_bounds_is_answered(port: int):
    assert status(talk(port, GET + b"X-A: a\r\n" * (MOST_HEADERS - 2) + LAST)) == 200


def test_a_body_that_comes_in_many_small_chunks_is_taken(port: int):
    chunks = [b"1\r\na\r\n" * 20_000] * 2
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert talk(port, head, *chunks, b"0\r\n\r\n").endswith(b"40000")


@pytest.mark.parametrize(
    "pieces",
    [
        [GET + b"X-A: a\r\n" * MOST_HEADERS + LAST],
        [GET + b"X: ", *[b"a" * 30_000] * 40],
        [b"GET /", *[b"a" * 30_000] * 40],
        [b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"],
    ],
    ids=["lines", "a header", "a path", "a path in one piece"],
)
def test_a_head_without_measure_is_refused(port: int, pieces: list[bytes]):
    answer = talk(port, *pieces, every_s=0.001)
    assert status(answer) == 431
    head, _, body = answer.partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert problem["code"] == "request-header-fields-too-large"
    assert problem["request_id"].encode() in head


def test_what_is_no_http_is_refused_as_a_problem(port: int):
    answer = talk(port, b"\x16\x03\x01\x00\r\n\r\n")
    assert status(answer) == 400
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "bad-request"


def test_trailers_without_end_break_the_connection(port: int):
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    assert talk(port, head, *[b"X: " + b"a" * 30_000 + b"\r\n"] * 40, every_s=0.001) == b""


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [(b"", 0), (b"GET / HT", 408), (GET, 408)],
    ids=["nothing", "half a line", "half a head"],
)
def test_a_head_that_does_not_come_in_time_is_given_up(port: int, beginning: bytes, expected: int):
    assert status(talk(port, beginning)) == expected


def test_a_body_that_dribbles_in_is_given_up_and_a_quick_one_is_not(port: int):
    began = time.monotonic()
    assert talk(port, POST, *[b"a"] * 30, every_s=0.1) == b""  # the app has begun: nothing is put in between
    assert time.monotonic() - began < 20
    assert (
        status(talk(port, POST.replace(b"60", b"600000"), *[b"a" * 60_000] * 10, every_s=0.08, most=1)) == 200
    )


def test_an_answer_that_takes_longer_than_a_request_may_is_waited_for(
    port: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bounded, "HEAD_S", 0.05)
    assert status(talk(port, b"GET /slow HTTP/1.1\r\n" + LAST)) == 200


@pytest.mark.parametrize(("ahead", "expected"), [(MOST_AHEAD // 2, 200), (50 * MOST_AHEAD, 0)])
def test_requests_that_are_sent_ahead_have_a_number(port: int, ahead: int, expected: int):
    answer = talk(port, (GET + b"\r\n") * ahead + GET + LAST)
    assert status(answer) in (expected, 429 if expected == 0 else expected)
    assert answer.count(b"HTTP/1.1 200") == (ahead + 1 if expected else 0)


def test_where_no_place_is_left_those_go_who_ask_nothing(port: int):
    silent = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(40)]
    try:
        assert status(talk(port, GET + LAST)) == 200
    finally:
        for connection in silent:
            connection.close()


def test_where_all_places_are_of_those_who_ask_the_next_is_sent_away(
    port: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bounded, "BODY_S", 60)
    asking = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(16)]
    try:
        for connection in asking:
            connection.sendall(POST)
        deadline = time.monotonic() + 20
        answer = b""
        while status(answer) != 503:  # until the heads have been read
            assert time.monotonic() < deadline
            answer = talk(port, GET + LAST)
        asking[0].sendall(b"a" * 60)
        assert status(asking[0].recv(2**16)) == 200
    finally:
        for connection in asking:
            connection.close()
