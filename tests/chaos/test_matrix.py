"""Scope x route x owner: what a stranger gets of each route, what a key's scope allows, and whose things.

Six callers (a stranger, a key of ann's for each scope that is no administrator's, an administrator) ask each
route three times: for a thing of ann's, for one of bob's, and for one from the time before there were keys.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from services.gateway.state import Gateway
from shared.contracts.keys import Scope
from shared.jobs.memory_store import MemoryJobStore
from tests.chaos.matrix import OWNERS, TABLE, Case, Owner, World, essence, routes_of
from tests.support.gateway_in_process import MemoryDispatcher, TestClient

PERSONAL = (Scope.PREDICT, Scope.TEACH, Scope.UPLOAD, Scope.JOBS)
CALLERS = ("stranger", *(scope.value for scope in PERSONAL), "admin")


class Installation:
    def __init__(self, client: TestClient, world: World) -> None:
        self.client = client
        self.world = world
        app: Any = client.app
        while not hasattr(app, "state"):
            app = app.app
        self.app = app
        self.gateway: Gateway = app.state.gateway
        self.keys: dict[str, dict[str, str]] = {"stranger": {}, "admin": world.key("root", Scope.ADMIN)}
        self.keys |= {scope.value: world.key("ann", scope) for scope in PERSONAL}
        assert self.gateway.ring is not None
        self.gateway.ring.refresh()
        live = world.student("nobody")
        assert self.ask("admin", "POST", f"/v1/students/{live}/promote", {}).status_code == 200

    def ask(self, caller: str, method: str, url: str, sent: dict[str, Any]) -> Any:
        sent.pop("made", None)
        headers = {**sent.get("headers", {}), **self.keys[caller]}
        return self.client.request(method, url, **{**sent, "headers": headers})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    settings = GatewaySettings(state_dir=tmp_path_factory.mktemp("matrix"), auth="keys")
    jobs = MemoryJobStore()
    world = World(settings, jobs)
    with TestClient(create_app(settings, jobs=jobs, dispatcher=MemoryDispatcher())) as client:
        yield Installation(client, world)


def test_every_route_of_the_gateway_is_in_the_table(installed: Installation):
    assert set(routes_of(installed.app)) == set(TABLE)


def test_every_route_needs_the_scope_that_the_table_says(installed: Installation):
    assert routes_of(installed.app) == {route: case.scope for route, case in TABLE.items()}


def allows(caller: str, scope: Scope | None) -> bool:
    return scope is None or caller in ("admin", scope.value)


def identifiers(method: str, url: str, sent: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of things in a request: all that is numbered."""
    return tuple(re.findall(r"thing-\d+|j-\d{12}|[0-9a-f]{64}|\b[0-9a-f]{12}\b", f"{url} {sent.get('json')}"))


def shortened(names: tuple[str, ...]) -> tuple[str, ...]:
    return (*names, *(name[:12] for name in names if len(name) == 64))


def problems(installed: Installation, route: tuple[str, str], case: Case, owner: Owner) -> Iterator[str]:
    """Let every caller ask once, those first who may not; yield what is wrong with the answers."""
    url, sent = case.ask(installed.world, owner)
    for caller in CALLERS:
        if not allows(caller, case.scope):
            status = installed.ask(caller, route[0], url, {**sent}).status_code
            expected = 401 if caller == "stranger" else 403
            if status != expected:
                yield f"{caller}: {status} and not {expected}"
    for caller in CALLERS:
        if allows(caller, case.scope) and (problem := verdict(installed, caller, route[0], case, owner)):
            yield f"{caller}: {problem}"


def verdict(installed: Installation, caller: str, method: str, case: Case, owner: Owner) -> str:
    """Let a caller ask once who may; return what is wrong with the answer, or nothing."""
    url, sent = case.ask(installed.world, owner)
    made = sent.get("made")
    answer = installed.ask(caller, method, url, sent)
    status = answer.status_code
    if case.kind == "list":
        shown = made in case.listed(answer.json())
        wanted = caller == "admin" or owner == "ann"
        return "" if status == 200 and shown == wanted else f"{status}, listed: {shown}"
    if case.kind == "thing" and caller != "admin" and owner != "ann":
        other, sent_other = case.ask(installed.world, "missing")
        missing = installed.ask(caller, method, other, sent_other)
        names = shortened(identifiers(method, url, sent))
        others = shortened(identifiers(method, other, sent_other))
        if status == missing.status_code == 404 and essence(answer, *names) == essence(missing, *others):
            return ""
        return f"{status} {answer.text[:200]!a} and missing: {missing.status_code} {missing.text[:200]!a}"
    return "" if status in case.ok | case.but else f"{status} {answer.text[:200]!a}"


def test_scope_route_and_owner_decide_what_everybody_gets(installed: Installation, told: Callable[..., None]):
    wrong = [
        f"{' '.join(route)}, of {owner}, {problem}"
        for route, case in TABLE.items()
        for owner in OWNERS
        for problem in problems(installed, route, case, owner)
    ]
    asked = len(TABLE) * len(CALLERS) * len(OWNERS)
    missing = sorted(set(routes_of(installed.app)) ^ set(TABLE))
    if wrong:
        pytest.fail("\n".join(wrong))
    told(
        7,
        "scope x route x owner",
        f"{asked} of {asked} answers as they should be: {len(TABLE)} routes x {len(CALLERS)} callers x "
        f"{len(OWNERS)} owners; {len(missing)} routes not in the table",
        "complete, all of them",
        held=not missing,
    )
