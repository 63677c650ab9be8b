"""Keys at the teacher: strangers, scopes, budgets, and who pays for whom."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from safetensors.numpy import save

from services.teacher import routes
from services.teacher.app import create_app
from services.teacher.ledger import BLOCK_ROWS, Ledger
from services.teacher.settings import TeacherSettings
from shared.adapters.web.scopes import scope_of
from shared.artefacts.keys import KeyStore
from shared.artefacts.store import ArtefactStore
from shared.contracts.budgets import BudgetList
from shared.contracts.keys import KeyLimits, KeyMade, KeyRequest, Scope
from tests.support.asgi_server import served
from tests.support.teachers import publish, random_images

URL = "/v1/teachers/shapes/soft-targets"
SCOPES = {
    "ask_soft_targets": Scope.TEACH,
    "list_teachers": Scope.TEACH,
    "describe_teacher": Scope.TEACH,
    "list_budgets": Scope.ADMIN,
    "live": None,
    "ready": None,
    "metrics": None,
}

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TeacherSettings:
    settings = TeacherSettings(
        state_dir=tmp_path_factory.mktemp("teacher"), device="cpu", auth="keys", max_rows=40, queue_rows=40
    )
    publish(settings.store_dir)
    for owner in ("of-teach", "of-ten", "of-refused", "of-many", "late"):
        ArtefactStore(settings.store_dir).owners.add("teachers", "shapes", owner)
    return settings


@pytest.fixture(scope="module")
def keys(settings: TeacherSettings) -> dict[str, KeyMade]:
    store = KeyStore(settings.store_dir)

    def key(name: str, *scopes: Scope, rows: int | None = None) -> KeyMade:
        limits = KeyLimits(teacher_rows=rows)
        return store.make(KeyRequest(name=name, owner=f"of-{name}", scopes=scopes, limits=limits))

    return {
        "teach": key("teach", Scope.TEACH),
        "predict": key("predict", Scope.PREDICT, Scope.JOBS, Scope.UPLOAD),
        "admin": key("admin", Scope.ADMIN),
        "ten": key("ten", Scope.TEACH, rows=10),
        "refused": key("refused", Scope.TEACH, rows=10),
        "paying": key("paying", Scope.JOBS, rows=30),
        "many": key("many", Scope.TEACH, rows=100_000),
        "stranger": key("stranger", Scope.TEACH),
    }


@pytest.fixture(scope="module")
def url(settings: TeacherSettings, keys: dict[str, KeyMade]) -> Iterator[str]:
    with served(create_app(settings)) as url:
        yield url


@pytest.fixture
def ask(url: str, keys: dict[str, KeyMade]) -> Ask:
    def ask(who: str | None, rows: int = 1, path: str = URL, **headers: str) -> httpx.Response:
        headers["Content-Type"] = "application/vnd.safetensors"
        if who is not None:
            headers["Authorization"] = f"Bearer {keys[who].key if who in keys else who}"
        return httpx.post(
            f"{url}{path}",
            params={"temperature": 1},
            content=save({"images": random_images(rows)}),
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    return ask


def code(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


def budget(url: str, keys: dict[str, KeyMade], name: str) -> tuple[int, int]:
    """Return what a key has taken and what it has left."""
    found = httpx.get(f"{url}/v1/budgets", headers={"Authorization": f"Bearer {keys['admin'].key}"})
    (view,) = [
        one for one in BudgetList.model_validate_json(found.content).budgets if one.key_id == keys[name].id
    ]
    assert view.owner == f"of-{name}"
    return view.taken, view.left


# --- who may ask -------------------------------------------------------------------------------------------


def test_every_route_needs_the_scope_that_is_promised():
    found = {
        route.operation_id: scope_of(route) for route in routes.router.routes if isinstance(route, APIRoute)
    }
    assert found == SCOPES


def test_a_stranger_gets_nothing_but_health_and_metrics(url, ask):
    for wrong in (None, "nonsense", "imago_000000000000_" + "x" * 43):
        assert code(ask(wrong)) == (401, "unauthenticated")
    for path in ("/v1/teachers", "/v1/teachers/shapes", "/v1/budgets", "/v1/nothing"):
        assert code(httpx.get(f"{url}{path}")) == (401, "unauthenticated")
    for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json"):
        assert httpx.get(f"{url}{path}").status_code in (200, 503)


def test_a_key_without_the_scope_is_told_which_one_is_missing(url, keys, ask):
    assert code(ask("predict")) == (403, "scope-missing")
    assert ask("teach").status_code == 200
    assert ask("admin").status_code == 200
    headers = {"Authorization": f"Bearer {keys['teach'].key}"}
    assert httpx.get(f"{url}/v1/teachers", headers=headers).status_code == 200
    assert code(httpx.get(f"{url}/v1/budgets", headers=headers)) == (403, "scope-missing")


def test_anothers_teacher_is_not_there(url, keys, ask):
    headers = {"Authorization": f"Bearer {keys['stranger'].key}"}
    assert httpx.get(f"{url}/v1/teachers", headers=headers).json() == {"teachers": []}
    for found, missing in (
        (httpx.get(f"{url}/v1/teachers/{name}", headers=headers) for name in ("shapes", "nobody")),
        (ask("stranger", path=URL.replace("shapes", name)) for name in ("shapes", "nobody")),
    ):
        assert code(found) == code(missing) == (404, "teacher-not-found")
        assert found.json()["detail"] == missing.json()["detail"].replace("nobody", "shapes")
    assert (
        httpx.get(
            f"{url}/v1/teachers/shapes", headers=headers | {"Authorization": f"Bearer {keys['teach'].key}"}
        ).status_code
        == 200
    )


def test_a_key_that_is_revoked_stops_within_a_moment(settings, ask, keys):
    store = KeyStore(settings.store_dir)
    made = store.make(KeyRequest(name="late", owner="late", scopes=(Scope.TEACH,)))
    while ask(made.key).status_code == 401:
        pass
    store.revoke(made.id)
    while ask(made.key).status_code == 200:
        pass


# --- budgets -----------------------------------------------------------------------------------------------


def test_a_key_gets_its_rows_and_not_one_more(url, keys, ask):
    assert ask("ten", 4).status_code == 200
    assert budget(url, keys, "ten") == (4, 6)
    refused = ask("ten", 7)
    assert code(refused) == (429, "teacher-budget-spent")
    assert refused.json()["detail"] == "the key may ask teachers 10 images, has 6 left and asked 7"
    assert ask("ten", 6).status_code == 200
    assert code(ask("ten", 1)) == (429, "teacher-budget-spent")
    assert budget(url, keys, "ten") == (10, 0)


def test_what_is_refused_costs_nothing(url, keys, ask):
    assert ask("refused", 41).status_code == 413
    assert ask("refused", 5, X_Deadline_Ms="0").status_code == 504
    assert ask("refused", 5, path="/v1/teachers/nobody/soft-targets").status_code == 404
    assert ask("refused", 5, X_Teacher_Digest="0" * 64).status_code == 409
    assert budget(url, keys, "refused") == (0, 10)
    assert ask("refused", 10).status_code == 200


def test_rows_are_taken_from_the_ledger_in_blocks_and_come_back_when_the_service_stops(tmp_path, ask):
    settings = TeacherSettings(state_dir=tmp_path, device="cpu", auth="keys")
    publish(settings.store_dir)
    limits = KeyLimits(teacher_rows=100_000)
    made = KeyStore(settings.store_dir).make(
        KeyRequest(name="k", owner="k", scopes=(Scope.TEACH,), limits=limits)
    )
    ArtefactStore(settings.store_dir).owners.add("teachers", "shapes", "k")
    ledger = Ledger(settings.ledger_path)
    with served(create_app(settings)) as url, httpx.Client(base_url=url) as client:
        for _ in range(3):
            asked = client.post(
                URL,
                params={"temperature": 1},
                content=save({"images": random_images(5)}),
                headers={
                    "Content-Type": "application/vnd.safetensors",
                    "Authorization": f"Bearer {made.key}",
                },
            )
            assert asked.status_code == 200
            assert ledger.taken(made.id) == 5 + BLOCK_ROWS
    assert ledger.taken(made.id) == 15


def test_a_ledger_without_room_grants_nothing_and_loses_nothing(tmp_path, monkeypatch):
    """The worker asks again after 503. What is to be given back meanwhile stays with the process."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    settings = TeacherSettings(state_dir=tmp_path, device="cpu", auth="keys")
    publish(settings.store_dir)
    limits = KeyLimits(teacher_rows=20)
    made = KeyStore(settings.store_dir).make(
        KeyRequest(name="k", owner="k", scopes=(Scope.TEACH,), limits=limits)
    )
    ArtefactStore(settings.store_dir).owners.add("teachers", "shapes", "k")
    head = {"Content-Type": "application/vnd.safetensors", "Authorization": f"Bearer {made.key}"}

    def asked(client: httpx.Client, rows: int, **headers: str) -> httpx.Response:
        body = save({"images": random_images(rows)})
        return client.post(URL, params={"temperature": 1}, content=body, headers=head | headers)

    with served(create_app(settings)) as url, httpx.Client(base_url=url) as client:
        with monkeypatch.context() as disk:
            disk.setattr("services.teacher.ledger.write_atomic", full)
            refused = asked(client, 5)
            assert code(refused) == (503, "store-full")
            assert refused.headers["Retry-After"] == "60"
        assert asked(client, 5).status_code == 200
        monkeypatch.setattr("services.teacher.budgets._MOST_HELD_ROWS", 0)
        monkeypatch.setattr("services.teacher.budgets.BLOCK_ROWS", 0)
        with monkeypatch.context() as disk:
            disk.setattr(Ledger, "put_back", full)
            # Granted of what the process holds, refused as too late, and nobody hears of the ledger.
            assert asked(client, 1, **{"X-Deadline-Ms": "0"}).status_code == 504
        assert asked(client, 15).status_code == 200
        assert code(asked(client, 1)) == (429, "teacher-budget-spent")


def test_an_administrator_may_name_the_key_that_pays_and_others_pay_themselves(url, keys, ask):
    paying = keys["paying"].id
    assert ask("admin", 12, X_Imago_Account=paying).status_code == 200
    assert budget(url, keys, "paying") == (12, 18)
    assert code(ask("admin", 19, X_Imago_Account=paying)) == (429, "teacher-budget-spent")
    assert ask("teach", 12, X_Imago_Account=paying).status_code == 200, "and has paid it themselves"
    assert ask("admin", 1, X_Imago_Account="adminkeyfile").status_code == 200
    assert code(ask("admin", 1, X_Imago_Account="0" * 12)) == (404, "key-not-found")
    assert code(ask("admin", 1, X_Imago_Account="../../etc")) == (422, "request-invalid")
    assert budget(url, keys, "paying") == (12, 18)


def test_a_key_that_is_revoked_while_its_job_asks_pays_on_within_its_budget(settings, url, keys, ask):
    store = KeyStore(settings.store_dir)
    wanted = KeyRequest(name="old", owner="of-old", scopes=(Scope.TEACH,), limits=KeyLimits(teacher_rows=40))
    keys = {**keys, "old": store.make(wanted)}
    job = {"X_Imago_Account": keys["old"].id}
    while ask("admin", 5, **job).status_code == 404:
        pass
    taken, _ = budget(url, keys, "old")
    store.revoke(keys["old"].id)
    while ask(keys["old"].key).status_code != 401:
        pass
    for _ in range(3):
        assert ask("admin", 6, **job).status_code == 200
    assert budget(url, keys, "old") == (taken + 18, 22 - taken)
    assert code(ask("admin", 30, **job)) == (429, "teacher-budget-spent")


def test_rows_are_counted_by_the_key_that_pays(url, keys, ask):
    def rows(name: str) -> float:
        pattern = rf'^imago_teacher_key_rows_total{{key="{keys[name].id}"}} (\S+)$'
        found = re.search(pattern, httpx.get(f"{url}/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = rows("many"), rows("admin")
    ask("many", 7)
    ask("admin", 3, X_Imago_Account=keys["many"].id)
    assert (rows("many"), rows("admin")) == (before[0] + 10, before[1])


def test_without_keys_anybody_asks_and_there_are_no_budgets(tmp_path: Path):
    settings = TeacherSettings(state_dir=tmp_path, device="cpu")
    publish(settings.store_dir)
    with served(create_app(settings)) as url:
        assert httpx.get(f"{url}/v1/teachers/shapes").status_code == 200
        assert httpx.get(f"{url}/v1/budgets").json() == {"budgets": []}
    assert not settings.ledger_path.exists()
