"""Which scope a route says that it needs, by the route alone."""

import pytest
from fastapi import Depends, FastAPI, Response
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel

from shared.adapters.web.access import ANYBODY, CALLER, Caller
from shared.adapters.web.scopes import ScopedRoute, needs, scope_of
from shared.contracts.keys import KeyLimits, Scope
from shared.errors import ScopeMissing


class Order(BaseModel):
    name: str


def nothing() -> None:
    return None


async def take(order: Order) -> Response:
    return Response(order.name)


def route(*dependencies: object) -> ScopedRoute:
    return ScopedRoute("/orders", take, methods=["POST"], dependencies=list(dependencies))  # type: ignore[arg-type]


def test_the_scope_of_a_route_is_found_among_its_other_dependencies() -> None:
    found = route(Depends(nothing), needs(Scope.UPLOAD), Depends(nothing))
    assert scope_of(found) is Scope.UPLOAD


def test_a_route_without_a_scope_is_public() -> None:
    assert scope_of(route(Depends(nothing))) is None
    assert scope_of(route()) is None


def test_a_route_needs_one_scope_and_no_two() -> None:
    with pytest.raises(ValueError, match="/orders needs one scope"):
        route(needs(Scope.JOBS), needs(Scope.ADMIN))


@pytest.fixture
def called_by() -> dict[str, Caller]:
    return {"caller": ANYBODY}


@pytest.fixture
def client(called_by: dict[str, Caller]) -> TestClient:
    app = FastAPI()
    app.router.route_class = ScopedRoute
    app.post("/orders", dependencies=[needs(Scope.UPLOAD)])(take)
    app.post("/open")(take)
    app.router.add_api_route(
        "/looked-at", nothing, dependencies=[needs(Scope.JOBS)], route_class_override=APIRoute
    )

    async def asked(scope, receive, send):  # type: ignore[no-untyped-def]
        await app({**scope, CALLER: called_by["caller"]}, receive, send)

    return TestClient(asked)


def caller(*scopes: Scope) -> Caller:
    return Caller("ann", "k" * 12, frozenset(scopes), KeyLimits())


def test_who_may_not_ask_is_told_so_whatever_the_body_is(
    client: TestClient, called_by: dict[str, Caller]
) -> None:
    called_by["caller"] = caller(Scope.JOBS)
    for body in (b'{"name": "a"}', b"{", b""):
        with pytest.raises(ScopeMissing):
            client.post("/orders", content=body, headers={"Content-Type": "application/json"})


def test_who_may_ask_is_told_what_is_wrong_with_the_body(
    client: TestClient, called_by: dict[str, Caller]
) -> None:
    called_by["caller"] = caller(Scope.UPLOAD)
    assert client.post("/orders", json={"name": "a"}).text == "a"
    assert client.post("/orders", content=b"{").status_code == 422


def test_a_public_route_asks_for_no_scope(client: TestClient, called_by: dict[str, Caller]) -> None:
    called_by["caller"] = caller()
    assert client.post("/open", json={"name": "b"}).text == "b"


def test_a_route_of_fastapis_own_class_asks_as_well(client: TestClient, called_by: dict[str, Caller]) -> None:
    called_by["caller"] = caller(Scope.JOBS)
    assert client.get("/looked-at").status_code == 200
    called_by["caller"] = caller(Scope.UPLOAD)
    with pytest.raises(ScopeMissing):
        client.get("/looked-at")
