"""The boundary at its edges, without a socket: what is counted, what is refused, what is left open."""

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared.adapters.web.boundary import Boundary, Tally, request_id_of


def asked(app: Any, *, headers: dict[str, str] | None = None, body: tuple[bytes, ...] = (b"",), **given: Any):
    """Ask an ASGI app behind a boundary of 100 bytes; return the status, the headers and the body."""
    parts = [
        {"type": "http.request", "body": part, "more_body": number < len(body)}
        for number, part in enumerate(body, start=1)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": "POST", "path": "/here", "headers": pairs, **given}
    asyncio.run(Boundary(app, limit_bytes=100, limits_bytes={"/here/long": 200})(scope, receive, send))
    start = next(message for message in sent if message["type"] == "http.response.start")
    found = {key.decode(): value.decode() for key, value in start["headers"]}
    return start["status"], found, b"".join(message.get("body", b"") for message in sent)


async def reads_all(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await answers(scope, receive, send)


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def swallows(scope: Any, receive: Any, send: Any) -> None:
    """Answers 400 to whatever goes wrong with the body, as frameworks do."""
    try:
        while (await receive()).get("more_body"):
            pass
        status = 204
    except Exception:  # noqa: BLE001
        status = 400
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("app", [reads_all, swallows])
@pytest.mark.parametrize(("size", "status"), [(100, 204), (101, 413)])
def test_a_body_in_parts_is_counted_whatever_the_app_makes_of_it(app, size: int, status: int):
    parts = (bytes(50), bytes(size - 50))
    assert asked(app, body=parts, headers={"transfer-encoding": "chunked"})[0] == status


@pytest.mark.parametrize(("size", "status"), [(200, 204), (201, 413)])
def test_a_declared_length_is_refused_before_the_app_is_asked(size: int, status: int):
    asked_for = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked_for.append(scope["path"])
        await answers(scope, receive, send)

    assert asked(app, headers={"content-length": str(size)}, path="/here/long")[0] == status
    assert len(asked_for) == (status == 204)


@pytest.mark.parametrize(
    ("headers", "closes"),
    [
        ({"content-length": "65536"}, False),
        ({"content-length": "65537"}, True),
        ({"transfer-encoding": "chunked"}, True),
        ({}, False),
        ({"content-length": "many"}, False),
    ],
)
def test_a_long_body_that_was_not_read_closes_the_connection(headers: dict[str, str], closes: bool):
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("early")

    status, found = with_room(refuses, headers)
    assert status == 500
    assert (found.get("Connection", found.get("connection")) == "close") is closes


def with_room(app: Any, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Ask an app behind a boundary of a mebibyte, with a body that never comes."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/here", "headers": pairs}
    asyncio.run(Boundary(app, limit_bytes=1 << 20)(scope, receive, send))
    start = sent[0]
    return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}


def test_a_body_that_was_read_to_its_end_keeps_the_connection():
    status, found, _ = asked(reads_all, headers={"transfer-encoding": "chunked"}, body=(bytes(9), bytes(9)))
    assert status == 204
    assert "connection" not in {name.lower() for name in found}


@pytest.mark.parametrize("whole", [True, False])
def test_only_an_answer_that_has_begun_and_is_not_whole_breaks_the_connection(whole: bool):
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": not whole})
        raise ZeroDivisionError

    if whole:
        assert asked(breaks)[0] == 200
    else:
        with pytest.raises(ZeroDivisionError):
            asked(breaks)


def test_an_error_before_any_answer_is_500_and_raises_nothing():
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    status, found, body = asked(breaks, headers={"x-request-id": "mine"})
    assert (status, {k.lower(): v for k, v in found.items()}["x-request-id"]) == (500, "mine")
    assert b"ZeroDivision" not in body


@pytest.mark.parametrize(
    ("given", "kept"), [("a" * 64, True), ("a" * 65, False), ("", False), ("a b", False)]
)
def test_an_id_of_up_to_64_harmless_characters_is_kept(given: str, kept: bool):
    assert (request_id_of(given) == given) is kept


def test_a_new_id_has_sixteen_digits_and_differs_each_time():
    found = {request_id_of(None) for _ in range(100)}
    assert len(found) == 100
    assert {len(one) for one in found} == {16}


def test_a_tally_counts_each_answer_once():
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    labels = {"route": "/tally", "method": "POST", "status": "200"}
    tally = Tally("/tally", "POST")
    assert tally.add(200, 0.1) is True
    assert tally.add(200, 0.2) is False
    assert tally.add(429, 0.3) is False
    for _ in range(2):
        tally.count()
        assert value("imago_http_requests_total", **labels) == 2
        assert value("imago_http_requests_total", **labels | {"status": "429"}) == 1
        assert value("imago_http_request_seconds_count", route="/tally") == 3
    assert tally.add(200, 0.1) is True
