from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from shared.artefacts.store import ArtefactStore
from shared.contracts.keys import KeyRequest, Scope
from shared.jobs.memory_store import MemoryJobStore
from tests.support.gateway_in_process import MemoryDispatcher, TestClient, refused
from tests.support.keyed_gateway import bearer

ADMIN_KEY = "0123456789abcdef0123456789abcdef"
WANTED = {"name": "shop-front", "owner": "anna", "scopes": ["predict", "jobs"], "limits": {"per_day": 10}}


@pytest.fixture
def looks_every_s() -> float:
    """So seldom that what a request changes must be followed by the request itself."""
    return 60.0


@pytest.fixture
def gateway(tmp_path: Path, looks_every_s: float) -> Iterator[TestClient]:
    file = tmp_path / "admin.key"
    file.write_text(f"{ADMIN_KEY}\n")
    settings = GatewaySettings(
        state_dir=tmp_path,
        auth="keys",
        admin_key_file=file,
        max_body_bytes=2000,
        promotion_poll_s=looks_every_s,
    )
    with TestClient(
        create_app(settings, jobs=MemoryJobStore(), dispatcher=MemoryDispatcher()), headers=bearer(ADMIN_KEY)
    ) as client:
        yield client


def test_a_key_is_made_and_is_valid_at_once(gateway: TestClient):
    answer = gateway.post("/v1/keys", json=WANTED)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/v1/keys/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert (made["owner"], made["scopes"], made["limits"]["per_day"]) == ("anna", ["predict", "jobs"], 10)
    assert gateway.get("/v1/jobs", headers=bearer(made["key"])).status_code == 200


def test_a_key_is_listed_and_shown_without_its_secret(gateway: TestClient):
    made = gateway.post("/v1/keys", json=WANTED).json()
    shown = {name: value for name, value in made.items() if name != "key"}
    assert gateway.get("/v1/keys").json() == {"keys": [shown]}
    assert gateway.get(f"/v1/keys/{made['id']}").json() == shown


def test_a_revoked_key_is_refused_at_once_and_stays_in_the_list(gateway: TestClient):
    made = gateway.post("/v1/keys", json=WANTED).json()
    revoked = gateway.delete(f"/v1/keys/{made['id']}")
    assert revoked.status_code == 200
    assert revoked.json()["revoked_at"] is not None
    refused(gateway.get("/v1/jobs", headers=bearer(made["key"])), 401, "unauthenticated")
    assert gateway.get("/v1/keys").json()["keys"] == [revoked.json()]
    assert gateway.delete(f"/v1/keys/{made['id']}").json() == revoked.json()


@pytest.mark.parametrize("key_id", ["aaaaaaaaaaaa", "x", "%2E%2E", "%00", "a" * 500])
def test_a_key_that_is_not_there_is_404(gateway: TestClient, key_id: str):
    refused(gateway.get(f"/v1/keys/{key_id}"), 404, "key-not-found")
    refused(gateway.delete(f"/v1/keys/{key_id}"), 404, "key-not-found")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["everything"]},
        {"owner": "../anna"},
        {"owner": "-"},
        {"name": ""},
        {"expires_in_days": 0},
        {"expires_in_days": -1},
        {"limits": {"per_second": 0}},
        {"key": "imago_mine"},
        {"digest": "0" * 64},
    ],
)
def test_a_key_that_cannot_be_is_refused_field_by_field(gateway: TestClient, wrong: dict[str, object]):
    problem = refused(gateway.post("/v1/keys", json=WANTED | wrong), 422, "request-invalid")
    assert problem["errors"]
    assert gateway.get("/v1/keys").json() == {"keys": []}


def test_a_full_disk_is_told_and_every_key_stays_as_it_was(
    gateway: TestClient, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    made = gateway.post("/v1/keys", json=WANTED).json()
    with monkeypatch.context() as disk:
        disk.setattr("shared.artefacts.keys.write_atomic", full)
        answer = gateway.post("/v1/keys", json=WANTED)
        refused(answer, 503, "store-full")
        assert answer.headers["retry-after"] == "60"
        refused(gateway.delete(f"/v1/keys/{made['id']}"), 503, "store-full")
    assert gateway.get("/v1/jobs", headers=bearer(made["key"])).status_code == 200
    assert len(gateway.get("/v1/keys").json()["keys"]) == 1


def test_whoever_has_the_scope_admin_may_look_at_keys(gateway: TestClient):
    admin = gateway.post("/v1/keys", json=WANTED | {"scopes": ["admin"]}).json()["key"]
    assert gateway.get("/v1/keys", headers=bearer(admin)).status_code == 200


def test_the_key_of_the_file_is_not_in_the_list(gateway: TestClient):
    assert gateway.get("/v1/keys").json() == {"keys": []}
    refused(gateway.delete("/v1/keys/adminkeyfile"), 404, "key-not-found")


def test_keys_can_be_made_before_they_are_asked_for(tmp_path: Path):
    settings = GatewaySettings(state_dir=tmp_path)
    with TestClient(create_app(settings, jobs=MemoryJobStore(), dispatcher=MemoryDispatcher())) as client:
        assert client.post("/v1/keys", json=WANTED).status_code == 201
        assert client.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("looks_every_s", [0.02])
def test_a_key_that_another_process_made_is_valid_before_long(gateway: TestClient, tmp_path: Path):
    asked = KeyRequest(name="other", owner="ben", scopes=(Scope.JOBS,))
    key = ArtefactStore(tmp_path / "store").keys.make(asked).key
    for _ in range(2000):
        if gateway.get("/v1/jobs", headers=bearer(key)).status_code == 200:
            return
    pytest.fail("the key was never valid")
