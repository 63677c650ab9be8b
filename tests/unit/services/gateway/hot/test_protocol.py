"""The same requests by the short way and by the app alone: nobody can tell which way an answer came."""

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

from services.gateway.app import create_app
from services.gateway.hot import exchange
from services.gateway.hot.batches import Batches
from services.gateway.hot.protocol import HotProtocol
from services.gateway.settings import GatewaySettings
from shared.adapters.web.bounded import MOST_AHEAD
from shared.artefacts.store import ArtefactStore
from shared.errors import QueueFull
from shared.jobs.memory_store import MemoryJobStore
from tests.support.gateway_in_process import PNG_TYPE, MemoryDispatcher, image_file
from tests.support.student_bundles import mlp_onnx, write_bundle


@contextmanager
def serving(settings: GatewaySettings, http_class: object, **more: object) -> Iterator[str]:
    app = create_app(settings, jobs=MemoryJobStore(), dispatcher=MemoryDispatcher())
    config = uvicorn.Config(
        app, port=0, http=http_class, log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=5, **more,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    root: Path = tmp_path_factory.mktemp("gateway")
    students = ArtefactStore(root / "store").students
    students.publish("digits-1", lambda at: write_bundle(at, "digits-1", mlp_onnx(favourite=7)))
    students.promote("digits-1")
    settings = GatewaySettings(
        state_dir=root, max_image_bytes=100_000, max_image_pixels=1_000_000, max_prediction_bytes=200_000
    )
    with ExitStack() as stack:
        yield {
            "short": stack.enter_context(serving(settings, HotProtocol)),
            "long": stack.enter_context(serving(settings, "auto")),
        }


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses of the answers that went the short way."""
    found: list[int] = []
    count = exchange.Exchange.count

    def noted(one: exchange.Exchange, status: int) -> None:
        found.append(status)
        count(one, status)

    monkeypatch.setattr(exchange.Exchange, "count", noted)
    return found


PATH = "/v1/predictions"
IMAGE = image_file()
ALIKE = {
    "an image": (PATH, IMAGE, {}),
    "no media type": (PATH, IMAGE, {"Content-Type": ""}),
    "octets": (PATH, IMAGE, {"Content-Type": "application/octet-stream"}),
    "a count": (PATH + "?top=3", IMAGE, {}),
    "an empty query": (PATH + "?", IMAGE, {}),
    "another parameter": (PATH + "?x=1", IMAGE, {}),
    "a wrong count": (PATH + "?top=many", IMAGE, {}),
    "no cascade": (PATH + "?cascade=off", IMAGE, {}),
    "a cascade for nothing": (PATH + "?top=2&cascade=0.95", IMAGE, {}),
    "a wrong cascade": (PATH + "?cascade=1.5", IMAGE, {}),
    "a deadline": (PATH, IMAGE, {"X-Deadline-Ms": "60000"}),
    "a wrong deadline": (PATH, IMAGE, {"X-Deadline-Ms": "soon"}),
    "another size": (PATH, image_file(40, 60), {}),
    "many pixels": (PATH, image_file(700, 1, form="JPEG"), {}),
    "a JPEG": (PATH, image_file(form="JPEG"), {"Content-Type": "image/jpeg"}),
    "no image": (PATH, b"GIF89a", {}),
    "cut off": (PATH, IMAGE[:-40], {}),
    "nothing": (PATH, b"", {}),
    "too large an image": (PATH, bytes(150_000), {}),
    "another media type": (PATH, b"{}", {"Content-Type": "application/json"}),
    "another media type and no body": (PATH, b"", {"Content-Type": "text/plain; charset=utf-8"}),
    "a media type in another hand": (PATH, IMAGE, {"Content-Type": "Image/PNG; x=1"}),
}
TYPED = ("another media type", "a media type in another hand")
"""Heads that are read anew each time."""


def form(*parts: bytes, boundary: bytes = b"limit-1", ends: bytes = b"--\r\n") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + ends


def part(
    data: bytes, file: str | None = "seven.png", *, kind: str = "image/png", name: str = "images"
) -> bytes:
    named = "" if file is None else f'; filename="{file}"'
    said = f"\r\nContent-Type: {kind}" if kind else ""
    return f'Content-Disposition: form-data; name="{name}"{named}{said}\r\n\r\n'.encode() + data


FORM = {"Content-Type": "multipart/form-data; boundary=limit-1"}
LONG_HEAD = "multipart/form-data; boundary=" + "x" * 100
PLAIN_FORMS = {
    "one image": (form(part(IMAGE)), {}),
    "several": (form(part(IMAGE), part(image_file(40, 60), "two.png"), part(IMAGE, None)), {}),
    "no media type of the part": (form(part(IMAGE, kind="")), {}),
    "no line after the end": (form(part(IMAGE), ends=b"--"), {}),
    "an image that is none": (form(part(IMAGE), part(b"GIF89a", "three.gif")), {}),
    "an empty image": (form(part(b"")), {}),
    "a count": (form(part(IMAGE)), {"top": "2"}),
    "a wrong count": (form(part(IMAGE)), {"top": "many"}),
    "an image that holds the end of a line": (form(part(b"\r\n--limit")), {}),
}
OTHER_FORMS = {
    "an escaped name": (form(part(IMAGE, 'a\\"b.png')), FORM),
    "a name in other letters": (form(part(IMAGE, "sieben-ä.png")), FORM),
    "an empty name of the file": (form(part(IMAGE, "")), FORM),
    "a part without a name": (form(b"Content-Type: image/png\r\n\r\n" + IMAGE), FORM),
    "more headers": (form(b"X-More: 1\r\n" + part(IMAGE)), FORM),
    "a boundary in quotes": (form(part(IMAGE)), {"Content-Type": 'multipart/form-data; boundary="limit-1"'}),
    "no boundary": (form(part(IMAGE)), {"Content-Type": "multipart/form-data"}),
    "another boundary": (form(part(IMAGE), boundary=b"limit-2"), FORM),
    "a long boundary": (form(part(IMAGE)), {"Content-Type": LONG_HEAD}),
    "words before": (b"hello\r\n" + form(part(IMAGE)), FORM),
    "words after": (form(part(IMAGE)) + b"goodbye", FORM),
    "blanks after a boundary": (form(part(IMAGE)).replace(b"limit-1\r\n", b"limit-1 \r\n", 1), FORM),
    "cut off": (form(part(IMAGE))[:-30], FORM),
    "an end in the middle": (form(part(IMAGE)) + form(part(IMAGE)), FORM),
    "nothing but the end": (b"--limit-1--\r\n", FORM),
    "nothing": (b"", FORM),
    "a part without an empty line": (form(b'Content-Disposition: form-data; name="images"'), FORM),
    "too large an image": (form(part(bytes(150_000))), FORM),
    "too many images": (form(*[part(IMAGE)] * 65), FORM),
    "a boundary that begins alike": (form(part(IMAGE + b"\r\n--limit-12")), FORM),
}
OTHER_WAY = {
    "too large a body": (PATH, bytes(250_000), {}),
    "another path": (PATH + "s", IMAGE, {}),
    "the end of the connection": (PATH, IMAGE, {"Connection": "close"}),
}


def answer(host: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[object, ...]:
    """Return what is alike, however often one asks."""
    sent = PNG_TYPE | {"X-Request-ID": "same-1"} | headers
    found = httpx.post(f"http://{host}{path}", content=body, headers=sent)
    told = {name: value for name, value in found.headers.items() if name not in ("date", "content-length")}
    return found.status_code, told, re.sub(r'"timing":\{[^}]*\}', "", found.text)


@pytest.mark.parametrize("case", [*ALIKE, *OTHER_WAY])
def test_both_ways_give_the_same_answer(hosts, case, taken):
    path, body, headers = (ALIKE | OTHER_WAY)[case]
    short = answer(hosts["short"], path, body, headers)
    assert taken == ([short[0]] if case in ALIKE else [])
    assert short == answer(hosts["long"], path, body, headers)


@pytest.mark.parametrize("case", [*PLAIN_FORMS, *OTHER_FORMS])
def test_both_ways_give_the_same_answer_to_a_form(hosts, case, taken, monkeypatch):
    read: list[str] = []
    form_images = exchange.form_images

    async def noted(*given: Any) -> Any:
        read.append("the long way")
        return await form_images(*given)

    monkeypatch.setattr(exchange, "form_images", noted)
    if case in PLAIN_FORMS:
        body, query = PLAIN_FORMS[case]
        path, headers = PATH + ("?" + "&".join(f"{k}={v}" for k, v in query.items()) if query else ""), FORM
    else:
        (body, headers), path = OTHER_FORMS[case], PATH
    short = answer(hosts["short"], path, body, headers)
    assert taken == [short[0]]
    assert read == ([] if case in PLAIN_FORMS else ["the long way"])
    status, told, words = answer(hosts["long"], path, body, headers)
    if case == "too large an image":
        # the app may refuse it before the rest has come, and ends the connection then
        assert told.pop("connection", "close") == "close"
    assert short == (status, told, words)


def test_a_form_as_a_library_writes_it_is_plain(hosts, taken, monkeypatch):
    monkeypatch.setattr(exchange, "form_images", None)
    files = [("images", ("one.png", IMAGE, "image/png")), ("images", ("two.png", IMAGE, "image/png"))]
    found = httpx.post(f"http://{hosts['short']}{PATH}", files=files)
    assert [one["file"] for one in found.json()["predictions"]] == ["one.png", "two.png"]
    assert taken == [200]


def test_the_short_way_gives_a_new_request_id_each_time_and_keeps_the_connection(hosts, taken):
    with httpx.Client(base_url=f"http://{hosts['short']}") as client:
        found = [client.post(PATH, content=IMAGE, headers=PNG_TYPE) for _ in range(3)]
    assert len({one.headers["X-Request-ID"] for one in found}) == 3
    assert found[0].headers["Date"]
    assert taken == [200] * 3


def test_requests_that_are_sent_without_waiting_are_answered_in_their_order(hosts):
    request = (
        f"POST {PATH}?top={{top}} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"X-Request-ID: no-{{top}}\r\nContent-Length: {len(IMAGE)}\r\n\r\n"
    )
    host, port = hosts["short"].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"".join(request.format(top=top).encode() + IMAGE for top in (1, 2, 3, 4)))
        client.settimeout(10)
        for top in (1, 2, 3, 4):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            length = int(re.search(rb"content-length: (\d+)", head)[1])
            body = b""
            while len(body) < length:
                body += client.recv(length - len(body))
            assert f"x-request-id: no-{top}".encode() in head.lower()
            assert len(json.loads(body)["predictions"][0]["classes"]) == top


@pytest.mark.parametrize("way", ["short", "long"])
def test_as_many_requests_for_the_app_are_sent_ahead_as_may_be(hosts, way):
    host, _, port = hosts[way].partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        last = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * (MOST_AHEAD - 1) + last)
        found = b""
        while data := client.recv(2**16):
            found += data
    assert found.count(b"HTTP/1.1 200") == MOST_AHEAD


def test_a_body_that_comes_byte_by_byte_is_answered(hosts, taken):
    host, port = hosts["short"].split(":")
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(IMAGE)}\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=10) as client:
        for at in range(0, len(head + IMAGE), 50):
            client.sendall((head + IMAGE)[at : at + 50])
            time.sleep(0.001)
        assert client.recv(20).startswith(b"HTTP/1.1 200 OK\r\n")
    assert taken == [200]


def test_where_too_many_wait_a_request_is_refused_before_its_image_is_decoded(hosts, monkeypatch, taken):
    def full(*_given: object) -> None:
        raise QueueFull("predictions", 1, retry_after_s=1.0)

    monkeypatch.setattr(Batches, "need_room", full)
    monkeypatch.setattr(exchange, "plain_pixels", None)
    assert httpx.post(f"http://{hosts['short']}{PATH}", content=IMAGE, headers=PNG_TYPE).status_code == 503
    assert taken == [503]


def test_a_plain_image_of_many_pixels_is_not_decoded_on_the_event_loop(hosts, monkeypatch, taken):
    monkeypatch.setattr(exchange, "SMALL_PIXELS", 27 * 28)
    monkeypatch.setattr(exchange, "plain_pixels", None)
    monkeypatch.setattr(exchange, "is_small", lambda *_given: False)
    assert httpx.post(f"http://{hosts['short']}{PATH}", content=IMAGE, headers=PNG_TYPE).status_code == 200
    assert taken == [200]


def received(client: socket.socket) -> tuple[bytes, bytes]:
    """Return status line and body of the next answer, the body without its timing."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        assert byte
        head += byte
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    body = b""
    while len(body) < length:
        body += client.recv(length - len(body))
    return head.partition(b"\r\n")[0], re.sub(rb'"timing":.*|"request_id":.*', b"", body)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The URLs of the requests that the HTTP parser has read."""
    found: list[bytes] = []
    on_headers_complete = HotProtocol.on_headers_complete

    def noted(connection: HotProtocol) -> None:
        found.append(connection.url)
        on_headers_complete(connection)

    monkeypatch.setattr(HotProtocol, "on_headers_complete", noted)
    return found


def raw(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = PNG_TYPE | headers | {"Content-Length": str(len(body))}
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    return head.encode() + b"\r\n" + body


@pytest.mark.parametrize("case", [case for case in ALIKE if ALIKE[case][1] and case not in TYPED])
@pytest.mark.parametrize("cut", [0, 1, -1])
def test_a_request_that_came_before_is_answered_alike_without_the_parser(hosts, case, cut, parsed, taken):
    """In one piece, with one byte of its body in the first, or with all but one."""
    request = raw(*ALIKE[case])
    at = len(request) - (len(ALIKE[case][1]) - cut if cut >= 0 else -cut) if cut else len(request)
    host, port = hosts["short"].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(request)
        first = received(client)
        read = len(parsed)
        client.sendall(request[:at])
        if at < len(request):
            time.sleep(0.01)  # only so that it comes apart; together it is answered as well
            client.sendall(request[at:])
        assert received(client) == first
    assert read <= 1
    assert len(parsed) == read
    assert len(taken) == 2


def test_a_connection_on_which_all_heads_are_known_is_not_cut_for_want_of_one(hosts, monkeypatch, parsed):
    monkeypatch.setattr("shared.adapters.web.bounded.HEAD_S", 0.3)
    monkeypatch.setattr("shared.adapters.web.bounded._LOOK_S", 0.05)
    request = raw(PATH, IMAGE, {})
    host, port = hosts["short"].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as first:
        first.sendall(request)
        received(first)
    parsed.clear()
    with socket.create_connection((host, int(port)), timeout=20) as client:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            client.sendall(request)
            assert received(client)[0] == b"HTTP/1.1 200 OK"
            time.sleep(0.02)
    assert parsed == []


def test_what_comes_after_a_request_whose_head_is_known_is_answered_next(hosts, parsed):
    known, other = raw(PATH + "?top=2", IMAGE, {}), b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    host, port = hosts["short"].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(known)
        first = received(client)
        parsed.clear()
        client.sendall(known + other + known)
        assert received(client) == first
        assert received(client)[0] == b"HTTP/1.1 200 OK"
        assert received(client) == first
    assert parsed[0] == b"/health/live"


def test_a_client_that_leaves_in_the_middle_of_a_body_is_counted_as_gone(hosts, taken):
    request = raw(PATH + "?top=4", IMAGE, {})
    host, port = hosts["short"].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(request)
        received(client)
        client.sendall(request[:-5])
    until = time.monotonic() + 20
    while len(taken) < 2 and time.monotonic() < until:
        time.sleep(0.005)
    assert taken == [200, 499]


def test_a_quiet_connection_is_ended(tmp_path):
    with (
        serving(GatewaySettings(state_dir=tmp_path), HotProtocol, timeout_keep_alive=0.2) as host,
        socket.create_connection((host.split(":")[0], int(host.split(":")[1])), timeout=20) as client,
    ):
        for _ in range(2):
            client.sendall(raw(PATH, IMAGE, {}))
            assert received(client)[0].startswith(b"HTTP/1.1 503")
        assert client.recv(1) == b""


@pytest.mark.parametrize(("quiet_s", "rings_in", "ends"), [(2.0, 3.0, False), (5.0, None, True)])
def test_the_timer_of_a_connection_rings_again_until_it_was_quiet_for_long_enough(quiet_s, rings_in, ends):
    connection = HotProtocol.__new__(HotProtocol)
    calls: list[float] = []
    closed: list[bool] = []
    connection.loop = SimpleNamespace(time=lambda: 100.0, call_later=lambda s, _handler: calls.append(s))
    connection.transport = SimpleNamespace(is_closing=lambda: False, close=lambda: closed.append(True))
    connection.timeout_keep_alive = 5
    connection._quiet_since = 100.0 - quiet_s
    connection.timeout_keep_alive_handler()
    assert calls == ([] if rings_in is None else [rings_in])
    assert bool(closed) is ends


@pytest.mark.parametrize(("pieces", "least"), [([], 7), ([bytes(1000)], 1007), ([b"a"] * 1000, 10_007)])
def test_a_connection_holds_what_was_not_read_and_the_pieces_of_its_body(pieces: list[bytes], least: int):
    connection = HotProtocol.__new__(HotProtocol)
    connection.transport = SimpleNamespace(get_write_buffer_size=lambda: 7)
    connection._taking = SimpleNamespace(pieces=pieces) if pieces else None
    assert least <= connection.held_bytes < 10 * least


def test_answers_of_the_short_way_are_counted_as_all_others_are(hosts):
    def counted() -> float:
        text = httpx.get(f"http://{hosts['short']}/metrics").text
        line = r'imago_http_requests_total\{method="POST",route="/v1/predictions",status="200"\} (\S+)'
        found = re.search(line, text)
        return float(found[1]) if found else 0.0

    before = counted()
    for _ in range(3):
        httpx.post(f"http://{hosts['short']}{PATH}", content=IMAGE, headers=PNG_TYPE)
    assert counted() == before + 3


def refused_unforeseen(found: httpx.Response) -> None:
    assert (found.status_code, found.json()["code"]) == (500, "internal-error")
    assert found.json()["request_id"] == found.headers["X-Request-ID"]


def test_what_nobody_foresaw_is_a_500_that_the_log_explains(hosts, monkeypatch, caplog):
    def fails(*_args: object, **_more: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(exchange, "plain_pixels", fails)
    with caplog.at_level(logging.ERROR):
        found = httpx.post(f"http://{hosts['short']}{PATH}", content=IMAGE, headers=PNG_TYPE)
    refused_unforeseen(found)
    assert "nobody foresaw this" in caplog.text
