"""Connections with bounds that are small enough to wait for."""

import asyncio
import json
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from shared.adapters.web import bounded
from shared.adapters.web.boundary import Boundary
from shared.adapters.web.bounded import MOST_AHEAD, MOST_HEADERS, BoundedProtocol

LARGE_BYTES = 2**25
"""Of an answer that no kernel keeps."""


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer once the body is whole, or before or after a moment where the path says so."""
    size = 0
    more = scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    await answer(
        send, bytes(LARGE_BYTES) if scope["path"].startswith("/large") else b"%d" % size, scope["path"]
    )


async def answer(send: Send, body: bytes, path: str) -> None:
    """Answer in one piece, or in many where the path says so."""
    step = 2**16 if path == "/large/parts" else len(body)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    for at in range(0, len(body), step):
        part = {
            "type": "http.response.body",
            "body": body[at : at + step],
            "more_body": at + step < len(body),
        }
        await send(part)


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


def asked_and_not_read(port: int, request: bytes) -> socket.socket:
    """Ask, with little room for the answer."""
    connection = socket.socket()
    connection.settimeout(20)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(request)
    return connection


def ended(connections: list[socket.socket], within_s: float) -> list[socket.socket]:
    """Return those that the other side has broken off, without reading; wait for the first."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, 0)
    broken = {descriptor for descriptor, _ in poll.poll(1000 * within_s)}
    return [connection for connection in connections if connection.fileno() in broken]


def read_to_the_end(connection: socket.socket) -> int:
    """Return how many bytes came."""
    size = 0
    while data := connection.recv(2**20):
        size += len(data)
    return size


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


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([GET + b"\r\n", b"\r\n"], [b"200", b"408"]),
        ([GET + b"\r\n", b"\r\n", b"\n\r\n"], [b"200", b"408"]),
        ([POST.replace(b"/", b"/early", 1), b"a" * 60], [b"200", b"408"]),
    ],
    ids=["an empty line", "empty lines", "the end of an answered request"],
)
def test_what_comes_after_an_answer_and_asks_nothing_does_not_keep_the_connection(
    port: int, pieces: list[bytes], expected: list[bytes]
):
    answers = talk(port, *pieces, every_s=0.1)
    assert re.findall(rb"HTTP/1.1 (\d{3})", answers) == expected


def test_an_empty_line_before_a_request_is_passed_over(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounded, "HEAD_S", 20)
    assert talk(port, GET + b"\r\n", b"\r\n", GET + LAST, every_s=0.1).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("path", [b"/large", b"/large/parts"])
@pytest.mark.parametrize("end", [b"\r\n", LAST], ids=["kept", "closed"])
def test_an_answer_that_nobody_reads_is_given_up(
    port: int, monkeypatch: pytest.MonkeyPatch, path: bytes, end: bytes
):
    monkeypatch.setattr(bounded, "ANSWER_S", 0.4)
    with asked_and_not_read(port, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + end) as connection:
        assert ended([connection], within_s=20)
        with pytest.raises(ConnectionResetError):
            read_to_the_end(connection)


def test_a_client_that_leaves_while_its_requests_wait_is_no_error(
    port: int, caplog: pytest.LogCaptureFixture
):
    with asked_and_not_read(port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 6) as connection:
        left = LARGE_BYTES  # so that another is under way, and others wait behind it
        while left > 0:
            left -= len(connection.recv(2**20))
    for _ in range(10):
        assert status(talk(port, GET + LAST)) == 200
    assert not caplog.records


def test_where_all_answers_together_are_too_much_the_largest_go(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounded, "MOST_HELD_BYTES", LARGE_BYTES * 5 // 4)
    request = b"GET /large HTTP/1.1\r\nHost: x\r\n" + LAST
    with ExitStack() as stack:
        both = [stack.enter_context(asked_and_not_read(port, request)) for _ in range(2)]
        gone = ended(both, within_s=20)
        assert len(gone) == 1
        (other,) = set(both) - set(gone)
        assert not ended([other], within_s=0.3)
        assert read_to_the_end(other) > LARGE_BYTES


def connection_with(**facts: object) -> BoundedProtocol:
    """Return a protocol without a connection, in the state that is given."""
    connection = BoundedProtocol.__new__(BoundedProtocol)
    given = {"_in_head": False, "_body_mark": (0.0, 0.0, 0), "_unread_mark": None} | facts
    vars(connection).update(flow=SimpleNamespace(read_paused=False, resume_writing=lambda: None), **given)
    return connection


def test_a_body_that_stops_after_a_burst_is_overdue():
    connection = connection_with(_since=5.0, _body=2**25)
    found = [now for now in range(5, 200) if connection.is_overdue(now)]
    # The first time has the burst, the next nothing.
    assert found[0] == pytest.approx(5 + 2 * bounded.BODY_S, abs=3)


def test_a_body_at_the_least_speed_is_never_overdue_and_one_below_it_is():
    for speed, overdue in ((bounded.LEAST_BYTES_PER_S, False), (bounded.LEAST_BYTES_PER_S * 0.9, True)):
        connection = connection_with(_since=0.0, _body=0)
        found = False
        for now in range(1, 1000):
            connection._body = int(speed * now)
            found = found or connection.is_overdue(now)
        assert found is overdue


def test_a_body_that_the_app_does_not_take_is_not_overdue():
    connection = connection_with(_since=0.0, _body=2**16)
    connection.flow.read_paused = True
    assert not any(connection.is_overdue(now) for now in range(500))
    connection.flow.read_paused = False
    assert not connection.is_overdue(500 + bounded.BODY_S - 1)
    assert connection.is_overdue(500 + bounded.BODY_S + 1)


def unread(connection: BoundedProtocol, left: list[int]) -> bool:
    """Look each second at what is left to read; return whether it was ever too much for too long."""
    sizes = iter(left)
    connection.transport = SimpleNamespace(get_write_buffer_size=lambda: next(sizes))
    return any(connection.is_unread(now) for now in range(len(left)))


SECONDS = int(3 * bounded.ANSWER_S)
LEAST = bounded.LEAST_BYTES_PER_S


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ([10**6] * SECONDS, True),
        ([*range(10**5, 10**5 + SECONDS)], True),
        ([10**6 - LEAST // 2 * second for second in range(SECONDS)], True),
        ([10**6 - LEAST * second for second in range(SECONDS)], False),
        ([1000, *(10**6 - LEAST * second for second in range(SECONDS))], False),
        ([100, 100, 0] * SECONDS, False),
        ([20_000, 60_000, 40_000] * SECONDS, False),
    ],
    ids=["nothing is read", "more is written", "too slowly", "slowly", "slowly, once all is written",
         "each soon", "a stream that is read"],
)  # fmt: skip
def test_an_answer_must_be_read_at_the_least_speed(left: list[int], expected: bool):
    assert unread(connection_with(), left) is expected


def test_a_stream_whose_writer_went_on_was_read():
    connection = connection_with()
    for _ in range(3):
        assert not unread(connection, [10**5] * int(bounded.ANSWER_S))
        connection.resume_writing()
