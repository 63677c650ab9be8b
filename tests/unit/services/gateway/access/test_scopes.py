"""Scope x route: each route of the gateway needs one scope, on every way that leads to it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from services.gateway import routes
from services.gateway.openapi import described
from shared.adapters.web.guard import is_public
from shared.adapters.web.scopes import ScopedRoute, scope_of
from shared.contracts.keys import KeyLimits, Scope
from shared.errors import QuotaExceeded, RateExceeded
from tests.support.gateway_in_process import image_file
from tests.support.keyed_gateway import KeyedGateway, keyed, store_with_student
from tests.support.oip_requests import ask, digits

ROUTES = {
    (method, route.path): scope_of(route)
    for router in routes.ROUTERS
    for route in router.routes
    for method in route.methods  # type: ignore[attr-defined]
}
SCOPED = {operation: scope for operation, scope in ROUTES.items() if scope is not None}
DOCUMENT = described().openapi()
PREDICTIONS = "/v1/predictions"
TEACHER = "digits-teacher"
"""On the card of the live student."""
OIP_SOURCE = {"kind": "oip", "url": "http://x", "model": "m"}


@pytest.fixture(scope="module", params=["short", "long"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KeyedGateway]:
    root: Path = tmp_path_factory.mktemp("gateway")
    store_with_student(root)
    with keyed(root, short=request.param == "short") as found:
        found.store.owners.add("teachers", TEACHER, "anna")
        yield found


@pytest.fixture(scope="module")
def keys(served: KeyedGateway) -> dict[Scope, dict[str, str]]:
    return {scope: served.key(scope) for scope in Scope}


@pytest.fixture
def client(served: KeyedGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, trust_env=False, timeout=60) as found:
        yield found


def asked(
    client: httpx.Client, method: str, path: str, headers: dict[str, str] | None = None
) -> httpx.Response:
    filled = re.sub(r"\{[^}]*\}", "x", path)
    body = image_file() if path == PREDICTIONS else None
    return client.request(method, filled, headers=headers, content=body)


def test_the_walk_is_over_all_operations_that_are_described():
    operations = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert operations == set(ROUTES)
    assert len(SCOPED) > 40


def test_a_route_is_public_or_has_a_scope():
    public = {path for (_, path), scope in ROUTES.items() if scope is None}
    assert public == {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"}
    assert {path for _, path in ROUTES if is_public(path)} == public


@pytest.mark.parametrize("operation", sorted(SCOPED), ids=" ".join)
def test_the_description_says_the_scope_and_what_a_key_is_refused_with(operation: tuple[str, str]):
    method, path = operation
    told = DOCUMENT["paths"][path][method.lower()]
    assert told["security"] == [{"key": [SCOPED[operation]]}]
    assert {"401", "403", "429"} <= told["responses"].keys()


def test_a_public_route_says_nothing_of_keys():
    for (method, path), scope in ROUTES.items():
        told = DOCUMENT["paths"][path][method.lower()]
        if scope is None:
            assert "security" not in told
            assert "401" not in told["responses"]


@pytest.mark.parametrize("operation", sorted(ROUTES), ids=" ".join)
def test_a_route_is_closed_to_strangers_and_to_all_scopes_but_its_own(
    client: httpx.Client, keys: dict[Scope, dict[str, str]], operation: tuple[str, str]
):
    needed = ROUTES[operation]
    stranger = asked(client, *operation)
    wrong = asked(client, *operation, headers={"Authorization": "Bearer imago_000000000000_" + "A" * 43})
    if needed is None:
        assert stranger.status_code == wrong.status_code == 200
        return
    for answer in (stranger, wrong):
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    for scope, key in keys.items():
        answer = asked(client, *operation, headers=key)
        if scope in (needed, Scope.ADMIN):
            assert answer.status_code not in (401, 403), (scope, answer.text)
            assert answer.status_code < 500 or answer.status_code == 503, (scope, answer.text)
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing"), scope


@pytest.mark.parametrize("operation", sorted(one for one in SCOPED if one[0] != "GET"), ids=" ".join)
def test_without_the_scope_a_body_is_not_even_read(
    client: httpx.Client, keys: dict[Scope, dict[str, str]], operation: tuple[str, str]
):
    method, path = operation
    for scope, key in keys.items():
        if scope not in (SCOPED[operation], Scope.ADMIN):
            headers = {"Content-Type": "application/json", **key}
            answer = client.request(method, re.sub(r"\{[^}]*\}", "x", path), content=b"{", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing"), scope


def test_every_route_whose_body_fastapi_reads_looks_at_the_scope_first():
    read = [
        route
        for router in routes.ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.body_field is not None and scope_of(route) is not None
    ]
    assert len(read) > 4
    assert [route.path for route in read if not isinstance(route, ScopedRoute)] == []


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nowhere", "/v2/nowhere", "/health", "/v1/jobs/"])
def test_a_stranger_does_not_learn_which_paths_there_are(client: httpx.Client, path: str):
    assert client.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_the_description_of_the_api_is_for_everybody(client: httpx.Client, path: str):
    assert client.get(path).status_code == 200


def test_to_choose_when_the_teacher_answers_needs_teach_as_well(
    client: httpx.Client, served: KeyedGateway, keys: dict[Scope, dict[str, str]]
):
    both = served.key(Scope.PREDICT, Scope.TEACH)
    for query, key, status in (
        ("?cascade=0.5", keys[Scope.PREDICT], 403),
        ("?cascade=off", keys[Scope.PREDICT], 200),
        ("?top=2", keys[Scope.PREDICT], 200),
        ("?cascade=0.5", both, 200),
        ("?cascade=0.5", keys[Scope.ADMIN], 200),
        ("?cascade=0.5", keys[Scope.TEACH], 403),
    ):
        answer = client.post(PREDICTIONS + query, content=image_file(), headers=key)
        assert answer.status_code == status, (query, answer.text)


@pytest.mark.parametrize("rows", [0, 10])
def test_a_budget_is_not_got_round_by_a_cascade(client: httpx.Client, served: KeyedGateway, rows: int):
    counted = served.key(Scope.PREDICT, Scope.TEACH, limits=KeyLimits(teacher_rows=rows))
    refused = client.post(f"{PREDICTIONS}?cascade=1&top=1000", content=image_file(), headers=counted)
    assert (refused.status_code, refused.json()["code"]) == (403, "budget-not-counted")
    for query in ("", "?cascade=off"):
        assert client.post(PREDICTIONS + query, content=image_file(), headers=counted).status_code == 200


@pytest.mark.parametrize("images", [1, 2])
def test_anothers_teacher_does_not_answer_by_a_cascade(
    client: httpx.Client, served: KeyedGateway, images: int
):
    files = [("images", ("a.png", image_file(), "image/png"))] * images
    sent: dict[str, Any] = {"content": image_file()} if images == 1 else {"files": files}
    for owner, scopes, status in (
        ("ben", (Scope.PREDICT, Scope.TEACH), 404),
        ("anna", (Scope.PREDICT, Scope.TEACH), 200),
        ("root", (Scope.ADMIN,), 200),
    ):
        key = served.key(*scopes, owner=owner)
        answer = client.post(f"{PREDICTIONS}?cascade=0.5", headers=key, **sent)
        assert answer.status_code == status, (owner, answer.text)
        if status == 404:
            assert answer.json()["code"] == "teacher-not-found"
            assert TEACHER not in answer.text
        assert client.post(f"{PREDICTIONS}?cascade=off", headers=key, **sent).status_code == 200


@pytest.mark.parametrize(
    ("spec", "scope"),
    [
        ({"kind": "redistillation", "name": "n", "collection": "c", "dataset": "d"}, "admin"),
        ({"kind": "teacher_import", "name": "n", "source": OIP_SOURCE}, "upload"),
    ],
)
def test_jobs_that_do_more_than_jobs_need_more(
    client: httpx.Client,
    served: KeyedGateway,
    keys: dict[Scope, dict[str, str]],
    spec: dict[str, object],
    scope: str,
):
    refused = client.post("/v1/jobs", json=spec, headers=keys[Scope.JOBS])
    assert (refused.status_code, refused.json()["code"]) == (403, "scope-missing"), refused.text
    assert f"'{scope}'" in refused.json()["detail"]
    allowed = client.post("/v1/jobs", json=spec, headers=served.key(Scope.JOBS, Scope(scope)))
    assert allowed.status_code not in (401, 403), allowed.text


def test_a_request_costs_as_many_as_it_has_images(
    client: httpx.Client, served: KeyedGateway, keys: dict[Scope, dict[str, str]]
):
    charged, key = served.charged, keys[Scope.PREDICT]
    files = [("images", (f"{place}.png", image_file(), "image/png")) for place in range(5)]
    for asking, status, owed in (
        (lambda: client.post(PREDICTIONS, content=image_file(), headers=key), 200, []),
        (lambda: client.post(PREDICTIONS, files=files, headers=key), 200, [4]),
        (lambda: client.post("/v2/models/digits/infer", json=ask(digits(3)), headers=key), 200, [2]),
        (lambda: client.post(PREDICTIONS, content=b"no image", headers=key), 422, []),
        (lambda: client.get("/v1/jobs", headers=key), 403, []),
    ):
        charged.taken.clear()
        charged.owed.clear()
        answer = asking()
        assert (answer.status_code, charged.taken, charged.owed) == (status, [1], owed), answer.text


def test_images_beyond_the_days_quota_are_refused_on_every_way(
    client: httpx.Client, served: KeyedGateway, keys: dict[Scope, dict[str, str]]
):
    key = keys[Scope.PREDICT]
    files = [("images", (f"{place}.png", image_file(), "image/png")) for place in range(5)]
    served.charged.error_of_charge = QuotaExceeded(60, 120)
    try:
        for answer in (
            client.post(PREDICTIONS, files=files, headers=key),
            client.post("/v2/models/digits/infer", json=ask(digits(3)), headers=key),
        ):
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "120"), answer.text
            assert answer.json()["code"] == "quota-exceeded"
    finally:
        served.charged.error_of_charge = None


def test_nothing_is_charged_to_strangers_or_for_health(client: httpx.Client, served: KeyedGateway):
    served.charged.taken.clear()
    client.post(PREDICTIONS, content=image_file())
    client.get("/health/live")
    assert served.charged.taken == []


def test_whoever_asks_too_much_is_told_so_on_every_way(
    client: httpx.Client, served: KeyedGateway, keys: dict[Scope, dict[str, str]]
):
    served.charged.error = RateExceeded(2, 3)
    try:
        for method, path in (("POST", PREDICTIONS), ("POST", "/v2/models/digits/infer"), ("GET", "/v1/jobs")):
            answer = asked(client, method, path, keys[Scope.ADMIN])
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
            assert answer.json()["code"] == "rate-exceeded"
    finally:
        served.charged.error = None
