"""`imago kept` and `imago redistil` against a gateway in memory."""

import json
from collections.abc import Callable

import httpx
import pytest

from services.cli.app import main
from services.cli.commands.common import Outside
from services.gateway import examples
from shared.contracts.specs import RedistillationSpec

Imago = Callable[..., str]


class Gateway:
    """Answers with the examples of the gateway, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.deleted = examples.KEPT_DELETED
        self.orders: list[RedistillationSpec] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.method, request.url.raw_path.decode()))
        if request.url.path == "/v1/jobs":
            self.orders.append(RedistillationSpec.model_validate_json(request.content))
            job = examples.JOB.model_copy(update={"spec": self.orders[-1]})
            return httpx.Response(201, content=job.model_dump_json())
        answer = examples.KEPT if request.url.path == "/v1/kept" else examples.KEPT_COLLECTION
        if request.method == "DELETE":
            removed = request.url.params.get("datasets") == "true"
            answer = self.deleted.model_copy(update={"datasets_removed": removed})
        return httpx.Response(200, content=answer.model_dump_json())


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def imago(gateway: Gateway, capsys, monkeypatch, tmp_path) -> Imago:
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(arguments, Outside(transport=httpx.MockTransport(gateway)))
        printed = capsys.readouterr()
        assert not left.value.code, printed.err
        return printed.out

    return run


def test_collections_are_listed_and_shown(imago: Imago):
    assert "unsure-digits  1,204   1,120      84" in " ".join(imago("kept", "list").split("\n")[1:2])
    shown = imago("kept", "show", "unsure-digits")
    assert "1,204, on 'mnist-5k'" in shown
    assert json.loads(imago("kept", "show", "unsure-digits", "--json"))["images"] == 1204


def test_deleting_says_what_is_gone_and_where_copies_are(imago: Imago, gateway: Gateway):
    said = imago("kept", "delete", "unsure-digits")
    assert "1,204 images of 'unsure-digits' are removed" in said
    assert "copies lie in the datasets digits-and-unsure" in said
    assert gateway.asked == [("DELETE", "/v1/kept/unsure-digits")]
    gateway.deleted = gateway.deleted.model_copy(update={"still_kept": True})
    said = imago("kept", "delete", "unsure-digits", "--datasets")
    assert "removed with them: digits-and-unsure" in said
    assert "goes on keeping" in said
    assert gateway.asked[-1] == ("DELETE", "/v1/kept/unsure-digits?datasets=true")


def test_a_redistillation_is_ordered_with_what_was_given(imago: Imago, gateway: Gateway):
    imago("redistil", "again", "--collection", "unsure", "--dataset", "frozen")
    imago(
        "redistil", "again", "--collection", "unsure", "--dataset", "frozen", "--student", "wren-1",
        "--promote", "never", "--seeds", "3,4",
    )  # fmt: skip
    assert gateway.orders == [
        RedistillationSpec(name="again", collection="unsure", dataset="frozen"),
        RedistillationSpec(
            name="again",
            collection="unsure",
            dataset="frozen",
            student="wren-1",
            promote="never",
            seeds=(3, 4),
        ),
    ]
