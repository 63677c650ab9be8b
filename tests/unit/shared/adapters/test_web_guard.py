import asyncio
from pathlib import Path
from typing import Any

import pytest

from shared.adapters.web.access import CALLER, Caller, caller_of
from shared.adapters.web.guard import NOBODY, Guard, is_public
from shared.adapters.web.keyring import KeyRing
from shared.artefacts.keys import KeyStore
from shared.artefacts.owners import Owners
from shared.contracts.keys import KeyRequest, Scope
from shared.errors import DistillationError, RateExceeded, ScopeMissing, Unauthenticated

STATUSES = {DistillationError: 500, Unauthenticated: 401, RateExceeded: 429}


class Behind:
    """The app behind the guard: takes note of who asks."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.callers.append(caller_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


class Guarded:
    def __init__(self, directory: Path) -> None:
        self.behind = Behind()
        store = KeyStore(directory)
        self.key = store.make(KeyRequest(name="a", owner="anna", scopes=(Scope.JOBS,))).key
        self.charged: list[tuple[str | None, int]] = []
        self.guard = Guard(self.behind, KeyRing(store), STATUSES, self.charge)
        self.empty = False

    def charge(self, caller: Caller, cost: int) -> None:
        if self.empty:
            raise RateExceeded(2, 3)
        self.charged.append((caller.owner, cost))

    def ask(self, path: str, *keys: str) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[Any] = []

        async def receive() -> Any:
            raise AssertionError("the body was read")

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {key}".encode()) for key in keys]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        asyncio.run(self.guard(scope, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/", "/v2", "/v2/models/m/infer", "/nowhere", "/v1/keys", "//docs"]
)
def test_without_a_key_nothing_is_reached_and_no_body_is_read(guarded: Guarded, path: str):
    status, headers, body = guarded.ask(path)
    assert (status, headers[b"www-authenticate"]) == (401, b"Bearer")
    assert b'"unauthenticated"' in body
    assert not guarded.behind.callers
    assert not guarded.charged


def test_with_a_key_the_app_is_told_who_asks_and_one_request_is_charged(guarded: Guarded):
    assert guarded.ask("/v1/jobs", guarded.key)[0] == 200
    assert [caller.owner for caller in guarded.behind.callers] == ["anna"]
    assert guarded.charged == [("anna", 1)]


def test_two_keys_are_none(guarded: Guarded):
    assert guarded.ask("/v1/jobs", guarded.key, guarded.key)[0] == 401


def test_whoever_asks_too_much_is_told_when_to_come_back(guarded: Guarded):
    guarded.empty = True
    status, headers, _ = guarded.ask("/v1/jobs", guarded.key)
    assert (status, headers[b"retry-after"]) == (429, b"3")
    assert not guarded.behind.callers


@pytest.mark.parametrize(
    "path",
    ["/health/live", "/health/ready", "/v2/health/live", "/metrics", "/docs", "/redoc", "/openapi.json"],
)
def test_public_paths_are_for_everybody_as_nobody(guarded: Guarded, path: str):
    for keys in ((), ("wrong",), (guarded.key,)):
        assert guarded.ask(path, *keys)[0] == 200
        assert guarded.behind.callers.pop() is NOBODY
    assert not guarded.charged


@pytest.mark.parametrize("path", ["/health", "/metricsx", "/docs/other", "/v2/health", "/HEALTH/live", ""])
def test_paths_that_look_like_public_ones_are_not(path: str):
    assert not is_public(path)


@pytest.mark.parametrize("scope", Scope)
def test_nobody_may_do_anything(scope: Scope):
    with pytest.raises(ScopeMissing):
        NOBODY.need(scope)


def test_nobody_sees_nothing(tmp_path: Path):
    owners = Owners(tmp_path)
    owners.add("datasets", "digits", "anna")
    assert NOBODY.confined_to is not None
    assert not owners.may_see("datasets", "digits", NOBODY.confined_to)


def test_a_web_socket_is_closed_and_the_start_of_the_app_is_none_of_its_business(guarded: Guarded):
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("something was read")

    asyncio.run(guarded.guard({"type": "websocket", "path": "/docs", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close"}]
    assert not guarded.behind.callers
    asyncio.run(guarded.guard({"type": "lifespan"}, receive, send))
    assert len(guarded.behind.callers) == 1


def test_the_caller_is_not_taken_from_what_a_client_sends(guarded: Guarded):
    """A header of the scope's own name is a header, and nothing else."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the body was read")

    scope = {"type": "http", "method": "GET", "path": "/v1/jobs", "headers": [(CALLER.encode(), b"admin")]}
    asyncio.run(guarded.guard(scope, receive, send))
    assert sent[0]["status"] == 401
