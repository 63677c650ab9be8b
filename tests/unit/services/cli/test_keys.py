"""`imago keys` against a gateway in this process, and on the store itself."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from services.cli.app import main
from services.cli.commands.common import Outside
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from shared.artefacts.keys import KeyStore
from shared.jobs.memory_store import MemoryJobStore
from tests.support.gateway_in_process import MemoryDispatcher, TestClient

Imago = Callable[..., tuple[int, str, str]]
FIRST = ("keys", "create", "--local", "--name", "first", "--owner", "ops", "--scope", "admin")


@pytest.fixture
def imago(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Imago]:
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("IMAGO_KEY", raising=False)

    def answer(request: httpx.Request) -> httpx.Response:
        found = client.request(
            request.method, request.url.path, content=request.read(), headers=dict(request.headers)
        )
        return httpx.Response(found.status_code, headers=dict(found.headers), content=found.content)

    def run(*arguments: str, key: str | None = None) -> tuple[int, str, str]:
        if key is not None:
            monkeypatch.setenv("IMAGO_KEY", key)
        with pytest.raises(SystemExit) as left:
            main(arguments, Outside(transport=httpx.MockTransport(answer)))
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    settings = GatewaySettings(state_dir=tmp_path, auth="keys", promotion_poll_s=0.02)
    app = create_app(settings, jobs=MemoryJobStore(), dispatcher=MemoryDispatcher())
    with TestClient(app) as client:
        yield run


def test_the_first_key_is_made_in_the_store_and_makes_the_others(imago: Imago, tmp_path: Path):
    code, first, _ = imago(*FIRST)
    assert code == 0
    assert first.startswith("imago_")
    (stored,) = KeyStore(tmp_path / "store").list()
    assert (stored.name, stored.owner, stored.scopes) == ("first", "ops", ("admin",))
    for _ in range(2000):  # the gateway follows the store
        code, said, _ = imago(
            "keys", "create", "--name", "phone", "--owner", "anna", "--scope", "predict", "--scope", "jobs",
            "--per-day", "10", "--days", "2", "--json", key=first,
        )  # fmt: skip
        if code == 0:
            break
    made = json.loads(said)
    assert (made["scopes"], made["limits"]["per_day"]) == (["predict", "jobs"], 10)
    assert made["expires_at"] is not None
    code, said, _ = imago("keys", "list")
    assert made["id"] in said
    assert "per_day 10" in said
    assert made["key"] not in said
    code, said, _ = imago("keys", "revoke", made["id"])
    assert (code, said) == (0, f"{made['id']} (phone, of anna) is revoked\n")
    code, said, _ = imago("keys", "list", "--local", "--json")
    assert json.loads(said)["keys"][1]["revoked_at"] is not None


@pytest.mark.parametrize(
    "command",
    [
        ("keys", "list"),
        ("jobs", "list"),
        ("keys", "revoke", "aaaaaaaaaaaa"),
        ("students", "list"),
        ("traffic", "show"),
    ],
)
def test_a_command_without_a_valid_key_is_refused_and_says_what_to_do(imago: Imago, command: tuple[str, ...]):
    code, _, told = imago(*command)
    assert code == 1
    assert told.startswith("error: unauthenticated: ")
    code, _, told = imago(*command, key="imago_000000000000_wrong")
    assert told.startswith("error: unauthenticated: ")
    assert "wrong" not in told


def test_a_key_that_cannot_be_one_is_refused_and_not_shown(imago: Imago):
    code, _, told = imago("jobs", "list", key="my secret")
    assert code == 1
    assert told.startswith("error: key-unusable: ")
    assert "my secret" not in told


@pytest.mark.parametrize(
    "wrong", [("--owner", "../x"), ("--days", "0"), ("--per-second", "-1"), ("--name", "A")]
)
def test_a_first_key_that_cannot_be_is_refused_where_it_is_wrong(
    imago: Imago, tmp_path: Path, wrong: tuple[str, str]
):
    code, _, told = imago(*FIRST, *wrong)
    assert code == 2
    assert told
    assert KeyStore(tmp_path / "store").list() == ()


def test_a_key_that_is_not_there_cannot_be_revoked_in_the_store(imago: Imago):
    code, _, told = imago("keys", "revoke", "aaaaaaaaaaaa", "--local")
    assert code == 1
    assert told.startswith("error: key-not-found: ")
