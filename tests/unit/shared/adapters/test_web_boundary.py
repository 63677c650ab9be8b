"""The boundary and the problems, over a socket: ids, limits, and an answer whatever happens."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from shared.adapters.web import problems
from shared.adapters.web.boundary import Boundary
from shared.adapters.web.metrics import exposition
from shared.contracts.base import Contract, Temperature
from shared.errors import DistillationError, InvalidRequest, JobNotFound, QueueFull
from tests.support.asgi_server import served

TABLE = {DistillationError: 500, InvalidRequest: 422, JobNotFound: 404, QueueFull: 503}


class Order(Contract):
    temperature: Temperature


def make_app() -> Boundary:
    app = FastAPI()
    problems.install(app, TABLE)

    @app.post("/size")
    @app.post("/large/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.post("/order")
    async def order(order: Order) -> float:
        return order.temperature

    @app.get("/jobs/{job}")
    def job(job: str) -> None:
        raise JobNotFound(job)

    @app.get("/full")
    def full() -> None:
        raise QueueFull("images", 10, 7.4)

    @app.get("/bug")
    def bug() -> None:
        raise RuntimeError("a secret path")

    @app.get("/breaks")
    def breaks() -> StreamingResponse:
        async def parts():
            yield b"half"
            await asyncio.sleep(0.01)
            raise RuntimeError("in the middle")

        return StreamingResponse(parts())

    app.add_api_route("/metrics", exposition)
    return Boundary(app, limit_bytes=1000, limits_bytes={"/large": 5000})


HELD = 1_000_000


def sizes() -> FastAPI:
    """Return an app that says how long a body was."""
    app = FastAPI()
    problems.install(app, TABLE)

    @app.post("/size")
    @app.post("/disk")
    async def size(request: Request) -> int:
        return len(await request.body())

    return app


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def client():
    with served(make_app()) as url, httpx.Client(base_url=url) as client:
        yield client


def problem(response, status: int, code: str) -> dict:
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert (response.status_code, found["status"], found["code"]) == (status, status, code), found
    assert found["request_id"] == response.headers["X-Request-ID"]
    return found


def test_a_sane_request_id_is_kept_and_any_other_is_replaced(client):
    assert client.get("/jobs/a", headers={"X-Request-ID": "job-7.a_B"}).headers["X-Request-ID"] == "job-7.a_B"
    for bad in ("a b", "x" * 65, "", 'a"b', "a{b}"):
        given = client.get("/jobs/a", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert given != bad
        assert len(given) == 16


def test_each_request_has_an_id_of_its_own(client):
    assert len({client.get("/jobs/a").headers["X-Request-ID"] for _ in range(20)}) == 20


def test_a_deliberate_error_is_a_problem_with_code_words_and_remedy(client):
    found = problem(client.get("/jobs/7"), 404, "job-not-found")
    assert found["detail"] == "there is no job '7'"
    assert found["remedy"] == JobNotFound.remedy


def test_trying_later_is_told_in_whole_seconds(client):
    response = client.get("/full")
    problem(response, 503, "queue-full")
    assert response.headers["Retry-After"] == "8"  # never too early


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("path", "limit"), [("/size", 1000), ("/large/size", 5000)])
def test_a_body_up_to_the_limit_of_its_path_is_read_and_one_over_it_is_413(client, path, limit, chunked):
    def body(size: int):
        return iter([b"x" * (size // 2), b"x" * (size - size // 2)]) if chunked else b"x" * size

    assert client.post(path, content=body(limit)).json() == limit
    problem(client.post(path, content=body(limit + 1)), 413, "body-too-large")
    assert client.post(path, content=body(10)).json() == 10  # the next request is none the worse


def waiting(holding: threading.Event, ends: threading.Event) -> Iterator[bytes]:
    """Send a body of which the end is waited for."""
    yield bytes(HELD - 1000)
    holding.set()
    ends.wait(20)
    yield bytes(1000)


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_that_are_held_have_a_limit_together(chunked: bool):
    def body(size: int) -> bytes | Iterator[bytes]:
        return iter([bytes(size // 2), bytes(size - size // 2)]) if chunked else bytes(size)

    def asked(path: str, size: int) -> httpx.Response:
        return httpx.post(f"{url}{path}", content=body(size), timeout=20)

    boundary = Boundary(sizes(), limit_bytes=HELD, most_held_bytes=HELD, to_disk=("/disk",))
    holding, ends = threading.Event(), threading.Event()
    with served(boundary) as url, ThreadPoolExecutor(1) as pool:
        holder = pool.submit(httpx.post, f"{url}/size", content=waiting(holding, ends), timeout=30)
        try:
            assert holding.wait(20)
            until(lambda: asked("/size", 70_000).status_code == 503)
            refused = asked("/size", 70_000)
            problem(refused, 503, "queue-full")
            assert refused.headers["Retry-After"] == "1"
            assert asked("/size", 60_000).json() == 60_000  # small ones harm nobody
            assert asked("/disk", 70_000).json() == 70_000
        finally:
            ends.set()
        assert holder.result().json() == HELD
        # All is given back, also by those that were refused.
        until(lambda: asked("/size", HELD).status_code == 200)


def test_a_body_that_was_cut_off_is_held_no_longer():
    with served(Boundary(sizes(), limit_bytes=HELD, most_held_bytes=HELD)) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=20) as client:
                client.sendall(b"POST /size HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % HELD + bytes(HELD - 1))
        until(lambda: httpx.post(f"{url}/size", content=bytes(HELD), timeout=20).status_code == 200)


def test_an_unforeseen_error_is_a_problem_that_gives_nothing_away_and_the_connection_lives(client):
    for _ in range(3):
        response = client.get("/bug")
        problem(response, 500, "internal-error")
        assert "secret" not in response.text
        assert client.get("/jobs/7").status_code == 404


def test_an_answer_that_breaks_half_way_is_not_passed_off_as_whole(client):
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/breaks")


def test_a_validator_that_refuses_with_an_error_of_ours_gives_its_code_and_remedy(client):
    found = problem(client.post("/order", json={"temperature": -1}), 422, "invalid-temperature")
    assert found["remedy"]
    assert found["errors"][0]["field"] == "body.temperature"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid-json"),
        (b'{"temperature": NaN}', "invalid-temperature"),
        (b'{"temperature": 1e999}', "invalid-temperature"),
        (b'{"temperature": "{warm}"}', "invalid-temperature"),
        (b"{}", "request-invalid"),
        (b'{"temperature": 1, "more": 2}', "request-invalid"),
        (b"[]", "request-invalid"),
        (b'{"temperature": ' + b"9" * 400 + b"}", "invalid-temperature"),
    ],
)
def test_json_that_cannot_be_is_422_with_a_code(client, body, code):
    problem(client.post("/order", content=body, headers={"Content-Type": "application/json"}), 422, code)


def test_bytes_that_are_no_text_are_refused_and_not_our_failure(client):
    response = client.post("/order", content=b"\xff\xfe{", headers={"Content-Type": "application/json"})
    assert response.headers["content-type"] == "application/problem+json"
    assert 400 <= response.status_code < 500


def test_unknown_paths_and_methods_are_problems(client):
    problem(client.get("/nothing"), 404, "not-found")
    found = client.delete("/order")
    problem(found, 405, "method-not-allowed")
    assert found.headers["Allow"] == "POST"


def test_requests_are_counted_by_route_and_status_and_not_by_path(client):
    for job in ("a1", "a2", "a3"):
        client.get(f"/jobs/{job}")
    client.get("/nowhere/a1")
    text = client.get("/metrics").text
    assert 'imago_http_requests_total{method="GET",route="/jobs/{job}",status="404"}' in text
    assert 'route="unmatched"' in text
    assert "a1" not in text


def test_every_error_has_a_documented_example_under_its_status():
    responses = problems.documented(TABLE, JobNotFound, QueueFull)
    assert set(responses) == {404, 503}
    assert json.dumps(responses)  # plain values
