"""The commands against a gateway in memory: what they print, how they leave."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.cli.app import main
from services.cli.commands.common import Outside
from services.cli.commands.jobs import spec_of
from services.cli.errors import line
from shared.client import GatewayRefused
from shared.contracts.jobs import JobState
from shared.contracts.training import Objective
from tests.support.fake_gateway import SPEC, VERSION, FakeGateway


@dataclass
class Left:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Imago = Callable[..., Left]


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def imago(
    gateway: FakeGateway,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Imago:
    """Run a command in this process; the state directory is empty."""
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("IMAGO_GATEWAY_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Left:
        with pytest.raises(SystemExit) as left:
            main(arguments, Outside(transport=gateway.transport()))
        printed = capsys.readouterr()
        code = left.value.code
        return Left(int(code or 0) if not isinstance(code, str) else 1, printed.out, printed.err)

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    path.write_bytes(b"png")
    return path


SPEC_JSON = SPEC.model_dump_json()
JSON_COMMANDS = [
    ("jobs", "list"),
    ("jobs", "show", "j-0"),
    ("jobs", "cancel", "j-0"),
    ("jobs", "pause", "j-0"),
    ("jobs", "report", "j-0"),
    ("students", "list"),
    ("students", "promote", VERSION),
    ("students", "compare", VERSION),
    ("datasets", "list"),
    ("teachers", "list"),
]


@pytest.mark.parametrize("command", JSON_COMMANDS, ids=" ".join)
def test_json_answers_are_json_and_nothing_else(imago: Imago, gateway: FakeGateway, command: tuple[str, ...]):
    gateway.add_job(**SPEC.model_dump())
    left = imago(*command, "--json")
    assert left.status == 0
    assert isinstance(left.json, dict)
    assert left.err == ""


@pytest.mark.parametrize("command", JSON_COMMANDS, ids=" ".join)
def test_answers_for_people_are_not_json(imago: Imago, gateway: FakeGateway, command: tuple[str, ...]):
    gateway.add_job(**SPEC.model_dump())
    left = imago(*command)
    assert left.status == 0
    assert left.out.strip()
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(left.out)


def test_the_children_of_a_job_are_listed_and_the_job_says_how(imago: Imago, gateway: FakeGateway):
    parent = gateway.add_job(**SPEC.model_dump())
    child = parent.model_copy(update={"id": "j-0-000", "parent": "j-0"})
    gateway.jobs |= {
        "j-0-000": child,
        "j-0": parent.model_copy(update={"state": JobState.WAITING, "children": ("j-0-000",)}),
    }
    assert "1 jobs, see jobs list --parent j-0" in imago("jobs", "show", "j-0").out
    assert [job["id"] for job in imago("jobs", "list", "--parent", "j-0", "--json").json["jobs"]] == [
        "j-0-000"
    ]
    shown = imago("jobs", "show", "j-0-000").out
    assert "parent" in shown


def test_a_job_is_paused_and_resumed_and_told_so(imago: Imago, gateway: FakeGateway):
    gateway.add_job(**SPEC.model_dump())
    assert imago("jobs", "pause", "j-0").out == "j-0 paused\n"
    assert imago("jobs", "resume", "j-0").out == "j-0 queued\n"
    left = imago("jobs", "resume", "j-0")
    assert left.status == 1
    assert "not paused" in left.err


def test_a_checkpoint_is_fetched_whole_or_not_at_all(imago: Imago, gateway: FakeGateway, tmp_path: Path):
    gateway.add_job(**SPEC.model_dump())
    out = tmp_path / "kept.safetensors"
    assert imago("jobs", "checkpoint", "j-0", "--out", str(out)).status == 0
    assert out.read_bytes() == b"weights"
    left = imago("jobs", "checkpoint", "j-nobodys", "--out", str(tmp_path / "other"))
    assert (left.status, "j-nobodys" in left.err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.safetensors"]


def test_a_comparison_is_told_in_words_and_what_was_not_seen_is_left_out(imago: Imago):
    text = imago("students", "compare", VERSION).out
    assert "another class than mnist-student-ffffff for 15 of 1,000 images (1.50%" in text
    assert "p50 0.1 to 0.2 ms, p99 above 1000 ms, 1.5 images a call" in text
    assert "12.00% away from the shares on the test images, 3.00% by chance" in text
    assert "teacher" not in text
    assert "of the live one" not in text


def test_a_student_is_deleted_by_its_version(imago: Imago, gateway: FakeGateway):
    assert imago("students", "delete", VERSION).out == f"{VERSION} is deleted\n"
    assert (gateway.seen[-1].method, gateway.seen[-1].url.path) == ("DELETE", f"/v1/students/{VERSION}")
    assert imago("students", "delete", "nobody").status == 1


def test_an_error_of_the_gateway_itself_is_told_with_its_request_id():
    refused = GatewayRefused(500, "internal-error", "an unexpected error", "Report it.", request_id="ab12")
    assert line(refused) == "internal-error: an unexpected error. Report it. (request_id ab12)"


def test_a_refusal_is_one_line_on_standard_error(imago: Imago):
    left = imago("students", "rollback", "--json")
    assert left.status == 1
    assert left.out == ""
    assert left.err == "error: nothing-to-roll-back: no student was live before.\n"


def test_markup_in_what_the_gateway_says_is_only_text(imago: Imago):
    left = imago("jobs", "show", "[red]x")
    assert left.err == "error: job-not-found: there is no job '[red]x'. List jobs.\n"


def test_a_misspelt_command_leaves_with_two(imago: Imago):
    assert imago("jobs", "sbmit").status == 2


def test_a_spec_comes_from_a_file(imago: Imago, gateway: FakeGateway, tmp_path: Path):
    file = tmp_path / "spec.json"
    file.write_text(SPEC_JSON)
    left = imago("jobs", "submit", str(file))
    assert left.out == "j-0\n"
    assert gateway.jobs["j-0"].spec == SPEC


def test_a_spec_comes_from_standard_input(
    imago: Imago, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SPEC_JSON.encode())))
    assert imago("jobs", "submit", "-", "--json").json["id"] == "j-0"
    assert gateway.jobs["j-0"].spec == SPEC


def test_a_spec_file_that_is_missing_is_named(imago: Imago):
    left = imago("jobs", "submit", "nowhere.json")
    assert left.status == 1
    assert "nowhere.json" in left.err


def test_options_spell_a_distillation(imago: Imago, gateway: FakeGateway):
    imago(
        "jobs", "submit", "--name", "s", "--teacher", "t", "--dataset", "d", "--temperature", "4",
        "--hard-weight", "0.1", "--hidden-units", "30,20", "--epochs", "2", "--seeds", "5,6",
    )  # fmt: skip
    spec = gateway.jobs["j-0"].spec.model_dump()
    assert spec["objective"] == Objective(temperature=4.0, hard_weight=0.1).model_dump()
    assert spec["student"]["network"]["hidden_units"] == (30, 20)
    assert spec["budget"]["epochs"] == 2
    assert spec["seeds"] == (5, 6)


def test_options_spell_a_teacher():
    spec = spec_of({"kind": "teacher", "name": "t", "dataset": "d", "hidden_units": "8"})
    assert spec == {
        "kind": "teacher",
        "name": "t",
        "dataset": "d",
        "architecture": {"architecture": "mlp", "hidden_units": [8]},
    }


def test_what_cannot_be_is_refused_by_the_gateway_not_here(imago: Imago):
    left = imago("jobs", "submit", "--name", "s", "--teacher", "t", "--dataset", "d", "--temperature", "-1")
    assert left.status == 1
    assert left.err.startswith("error: invalid-temperature: temperature must be above 0. Give one")


def test_neither_spec_nor_options_is_a_misspelling(imago: Imago):
    assert imago("jobs", "submit").status == 2


def test_watching_prints_plain_lines_where_there_is_no_terminal(imago: Imago, gateway: FakeGateway):
    gateway.add_job(**SPEC.model_dump())
    left = imago("jobs", "watch", "j-0")
    lines = left.out.splitlines()
    assert left.status == 0
    assert any("train  6/60 epochs  ETA 54 s  loss 0.25" in line for line in lines)
    assert any("train  60/60 epochs  took 1 min 01 s" in line for line in lines)
    assert any("the best epoch was 57" in line for line in lines)
    assert sum(" train " in line for line in lines) == 11
    assert VERSION in left.out
    assert "\x1b" not in left.out


def test_watching_as_json_is_an_event_a_line_and_the_job_last(imago: Imago, gateway: FakeGateway):
    gateway.add_job(**SPEC.model_dump())
    lines = [json.loads(line) for line in imago("jobs", "watch", "j-0", "--json").out.splitlines()]
    assert [line["id"] for line in lines[:-1]] == [event.id for event in gateway.events]
    assert lines[-1]["state"] == "succeeded"


def test_watching_a_job_that_fails_says_why_and_leaves_with_one(imago: Imago, gateway: FakeGateway):
    gateway.ends_as = JobState.FAILED
    gateway.add_job(**SPEC.model_dump())
    left = imago("jobs", "watch", "j-0")
    assert left.status == 1
    assert left.err == ("error: diverged: job j-0 failed: the loss is nan in epoch 3. Lower the rate.\n")


def test_predictions_are_shown_as_bars(imago: Imago, image: Path):
    left = imago("predict", str(image))
    assert f"{image}: 7" in left.out
    assert "90.0000%" in left.out
    assert "0.40 ms in the gateway" in left.out


def test_an_image_that_is_not_there_is_a_misspelling(imago: Imago, tmp_path: Path):
    left = imago("predict", str(tmp_path / "none.png"))
    assert left.status == 2
    assert "none.png" in left.err


def test_a_name_is_whole_where_a_list_goes_into_a_pipe(
    imago: Imago, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("COLUMNS")
    assert VERSION in imago("students", "list").out
    monkeypatch.setenv("COLUMNS", "20")
    assert VERSION not in imago("students", "list").out


def test_the_gateway_is_the_one_that_was_named(imago: Imago, gateway: FakeGateway):
    imago("students", "list", "--gateway", "http://elsewhere.test:9")
    assert gateway.seen[-1].url.host == "elsewhere.test"


def test_without_a_name_it_is_the_usual_one(imago: Imago, gateway: FakeGateway):
    imago("students", "list")
    assert str(gateway.seen[-1].url) == "http://127.0.0.1:8080/v1/students"
