"""`imago experiments` against a gateway in memory."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import linear_trials
from experiments.registry import EXPERIMENTS
from services.cli.app import main
from services.cli.commands.common import Outside
from tests.support.fake_gateway import FakeGateway

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def imago(
    gateway: FakeGateway,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Run:
    """Run a command in this process; the state directory is empty."""
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("IMAGO_GATEWAY_URL", "http://gateway")
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(("experiments", *arguments), Outside(transport=gateway.transport()))
        printed = capsys.readouterr()
        code = left.value.code
        return int(code or 0), printed.out, printed.err

    return run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_trials, "SIZES", (10, 20))
    monkeypatch.setattr(linear_trials, "TRIALS", 3)
    monkeypatch.setattr(linear_trials, "EXAMPLES", 200)


def test_the_list_names_every_experiment_with_what_it_is_to_reach(imago: Run):
    status, out, _ = imago("list")
    assert status == 0
    assert all(name in out for name in EXPERIMENTS)
    assert "distilled ≤ 74 errors" in out


def test_the_list_is_one_experiment_a_line_as_json(imago: Run):
    _, out, _ = imago("list", "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == list(EXPERIMENTS)


@pytest.mark.usefixtures("quick")
def test_a_run_writes_page_figures_chart_and_index(imago: Run, tmp_path: Path):
    out = tmp_path / "docs"
    status, said, _ = imago("run", "linear", "--reduced", "--seeds", "4,5", "--out", str(out))
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "linear.json",
        "linear.md",
        "linear.png",
    ]
    assert "`imago experiments run linear --reduced --seeds 4,5`" in (out / "linear.md").read_text()
    assert "[`linear`](linear.md)" in (out / "README.md").read_text()
    assert "linear.png" in said


@pytest.mark.usefixtures("quick")
def test_a_run_answers_with_the_result_as_json(imago: Run, tmp_path: Path):
    _, out, err = imago("run", "linear", "--json", "--out", str(tmp_path))
    assert json.loads(out)["name"] == "linear"
    assert "step 1 of 1" in err


def test_an_unknown_name_is_refused_with_the_known_ones(imago: Run, gateway: FakeGateway):
    status, _, err = imago("run", "minst")
    assert status == 1
    assert "experiment-not-found" in err
    assert "mnist-omit-3" in err
    assert gateway.seen == []


def test_a_missing_dataset_is_told_before_anything_is_trained(imago: Run, gateway: FakeGateway):
    status, _, err = imago("run", "mnist", "--reduced")
    assert status == 1
    assert "no-dataset: mnist needs mnist" in err
    assert "IMAGO_DATA_DIR" in err
    assert all(request.method == "GET" for request in gateway.seen)


@pytest.mark.parametrize("seeds", ["0", "0,0", "a,b", "-1,2"])
def test_seeds_that_make_no_spread_are_refused(imago: Run, seeds: str):
    status, _, err = imago("run", "linear", "--seeds", seeds)
    assert status == 2
    assert "--seeds" in err
