"""Pages are made from the JSON files alone; those that are committed are what their JSON says."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from experiments import pages
from experiments.experiment import Form
from experiments.registry import EXPERIMENTS
from experiments.result import ExperimentResult, StepRun
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
        "Page written at commit `abc`, 2026-11-21 12:00 UTC",
        "Wall time of all steps: 12 min 05 s",
        "![A student of digits](mnist.png)",
    ):
        assert words in page


def step(name: str, **noted: object) -> StepRun:
    return StepRun(step=name, kind="teacher", job_id=f"j-{name}", seconds=60.0, teacher_rows=0, **noted)


def test_a_page_tells_of_each_job_when_it_ended_and_whether_it_ran_before():
    earlier, now = datetime(2026, 11, 20, 9, 5, tzinfo=UTC), datetime(2026, 11, 21, 11, 59, tzinfo=UTC)
    steps = (step("a", ended_at=earlier, found=True), step("b", ended_at=now, found=False), step("c"))
    page = pages.markdown(result().model_copy(update={"steps": steps}))
    assert "| a | `j-a` (teacher) | 2026-11-20 09:05 | yes |" in page
    assert "| b | `j-b` (teacher) | 2026-11-21 11:59 | no, run for this page |" in page
    assert "| c | `j-c` (teacher) | not noted | not noted |" in page
    assert "Jobs: 1 of 3 found again, of 1 it was not noted. What is found again ran earlier" in page


def test_a_page_without_jobs_claims_none():
    computed = StepRun(step="n", kind="computation", job_id=None, seconds=1.0, teacher_rows=0)
    page = pages.markdown(result().model_copy(update={"steps": (computed,)}))
    assert "Jobs: none, it was computed in the process that wrote the page" in page


def test_a_result_of_before_times_were_noted_can_still_be_read(tmp_path: Path):
    old = result().model_dump(mode="json")
    for one in old["steps"]:
        del one["ended_at"], one["found"]
    (tmp_path / "mnist.json").write_text(json.dumps(old))
    assert pages.results_in(tmp_path) == {"mnist": result()}


def test_fewer_than_three_seeds_are_said_on_the_page_and_in_the_index():
    few = result().model_copy(update={"seeds": (0, 1)})
    assert "Seeds of students: 0, 1. **Fewer than 3**" in pages.markdown(few)
    assert "74 errors (reduced form, 2 seeds only)" in pages.index(ALL, {"mnist": few})
    assert "Fewer than" not in pages.markdown(result())


def test_a_figure_of_one_value_is_not_passed_off_as_a_mean():
    assert "A figure without ± is one value" in pages.markdown(result())


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
    computed = all(step.job_id is None for step in committed.steps)
    assert computed or len(committed.seeds) >= (2 if committed.form == "reduced" else 3)
    steps = [step.name for step in experiment.steps(Form(reduced=committed.form == "reduced"))]
    assert [step.step for step in committed.steps] == steps


def test_durations_are_read_by_people():
    assert [pages.duration(s) for s in (4.4, 65, 7_800)] == ["4 s", "1 min 05 s", "2 h 10 min"]
