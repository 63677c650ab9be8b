"""Pages are made from the JSON files alone; those that are committed are what their JSON says."""

from pathlib import Path

import pytest

from experiments import pages
from experiments.experiment import Form
from experiments.registry import EXPERIMENTS
from experiments.result import ExperimentResult
from tests.unit.experiments.examples import result

DOCS = Path(__file__).parents[3] / "docs" / "experiments"
COMMITTED = sorted(DOCS.glob("*.json"))
ALL = tuple(EXPERIMENTS.values())


def test_a_page_tells_figures_verdict_and_how_it_was_run():
    page = pages.markdown(result())
    for words in (
        "**Reached.** It is reached.",
        "| distilled | 74.0 ± 4.0 errors | 70, 74, 78 | 74 |",
        "| errors | 67, 146, 74 |",
        "| 1 | 90 |",
        "Command: `imago experiments run mnist --reduced`",
        "Form: reduced. Left out: half of the epochs",
        "Seeds of students: 0, 1, 2",
        "A CPU, 2 cores, 8 GiB, torch 2.13",
        "Commit: `abc`",
        "Wall time of all steps: 12 min 05 s",
        "![A student of digits](mnist.png)",
    ):
        assert words in page


def test_what_was_not_reached_is_said_as_plainly():
    assert "**Not reached.**" in pages.markdown(result(reached=False))


def test_where_nothing_is_to_be_reached_the_verdict_stands_alone():
    assert "**To reach**: distilled ≤ 74 errors. It is reached." in pages.markdown(result(reached=None))


def test_a_bar_in_a_label_does_not_break_the_table():
    assert "| untaught &#124; twin | 98.50 % |" in pages.markdown(result())


def test_notes_of_a_person_survive_and_reach_the_page(tmp_path: Path):
    notes = tmp_path / pages.NOTES / "mnist.md"
    notes.parent.mkdir()
    notes.write_text("Fell short at first.\n")
    for _ in range(2):
        _, page, _ = pages.write(tmp_path, result(), b"png")
    assert page.read_text().endswith("## Notes\n\nFell short at first.\n")
    assert notes.read_text() == "Fell short at first.\n"


def test_what_is_written_can_be_read_back(tmp_path: Path):
    as_json, _, picture = pages.write(tmp_path, result(), b"png")
    assert pages.results_in(tmp_path) == {"mnist": result()}
    assert (as_json.name, picture.read_bytes()) == ("mnist.json", b"png")


def test_the_index_shows_every_experiment_with_our_figure_where_there_is_one():
    page = pages.index(ALL, {"mnist": result()})
    assert "74 errors (reduced form) | reached |" in page
    assert page.count("not run yet") == len(ALL) - 1
    assert all(f"`{name}`" in page for name in EXPERIMENTS)


def test_the_committed_index_is_what_the_json_files_say():
    assert (DOCS / pages.INDEX).read_text() == pages.index(ALL, pages.results_in(DOCS))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_page_is_what_its_json_says(path: Path):
    committed = ExperimentResult.model_validate_json(path.read_bytes())
    assert path.with_suffix(".md").read_text() == pages.markdown(committed, pages.notes_of(DOCS, path.stem))
    assert path.with_suffix(".png").is_file()


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_result_is_of_an_experiment_and_has_enough_seeds(path: Path):
    committed = ExperimentResult.model_validate_json(path.read_bytes())
    experiment = EXPERIMENTS[path.stem]
    assert committed.to_reach == experiment.to_reach
    assert len(committed.seeds) >= 3 or all(step.job_id is None for step in committed.steps)
    steps = [step.name for step in experiment.steps(Form(reduced=committed.form == "reduced"))]
    assert [step.step for step in committed.steps] == steps


def test_durations_are_read_by_people():
    assert [pages.duration(s) for s in (4.4, 65, 7_800)] == ["4 s", "1 min 05 s", "2 h 10 min"]
