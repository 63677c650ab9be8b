"""What `make chaos` tells: a line for each figure, and for each test that ended without one."""

from pathlib import Path

import pytest

from tests.chaos.figures import Figure, append, beside_mechanisms, read, table, without_figure

TEST = "tests/chaos/test_a.py::test_nothing_is_lost"


def report(outcome: str, longrepr: object) -> pytest.TestReport:
    return pytest.TestReport(TEST, ("a", 1, "a"), {}, outcome, longrepr, "call")  # type: ignore[arg-type]


def figure(held: bool = True, test: str = TEST) -> Figure:
    return Figure(1, "jobs", "0 of 10 | lost", "0", held, test)


def test_figures_come_back_as_they_were_told_by_promise(tmp_path: Path) -> None:
    told = tmp_path / "figures.jsonl"
    second = Figure(2, "recovery", "3 s", "5 s", True, TEST)
    append(told, second)
    append(told, figure())
    assert read(told) == [figure(), second]
    assert read(tmp_path / "none") == []


def test_a_test_that_broke_before_its_figure_is_told_with_the_reason(tmp_path: Path) -> None:
    found = without_figure(report("failed", "E   boom\nat line 3"), tmp_path / "none")
    assert found == Figure(None, "nothing is lost", "failed: E   boom", "it runs to its end", False, TEST)


def test_a_test_that_was_skipped_is_told_as_one_that_showed_nothing(tmp_path: Path) -> None:
    found = without_figure(report("skipped", ("a.py", 3, "Skipped: no disk")), tmp_path / "none")
    assert found is not None
    assert (found.figure, found.held) == ("Skipped: no disk", False)


def test_a_test_that_failed_by_its_figure_or_passed_is_not_told_twice(tmp_path: Path) -> None:
    told = tmp_path / "figures.jsonl"
    assert without_figure(report("passed", None), told) is None
    append(told, figure(held=False))
    assert without_figure(report("failed", "E   FAIL jobs"), told) is None
    # One that was held explains no failure.
    other = tmp_path / "other.jsonl"
    append(other, figure())
    assert without_figure(report("failed", "E   boom"), other) is not None


def test_the_table_says_what_was_below_its_bar_and_keeps_to_its_cells() -> None:
    rows = table([figure(held=False), Figure(None, "x", "y", "z", False)]).splitlines()
    assert rows[2] == f"| 1 | jobs | 0 of 10 \\| lost | 0 | **no** | `{TEST}` |"
    assert rows[3].startswith("| ? | x |")


def test_each_mechanism_has_the_figures_of_its_tests_beside_it() -> None:
    other = TEST.replace("nothing", "something")
    rows = (f"| 1 | record | `a.lua` | `{TEST}`, `{other}` | old |", f"| 2 | else | `b` | `{other}` | old |")
    page = "\n".join(["# Title", "", *rows])
    figures = [figure(), figure(held=False, test=f"{TEST}[hard]")]
    filled = beside_mechanisms(page, figures).splitlines()
    said = "0 of 10 \\| lost; 0 of 10 \\| lost (**below its bar**)"
    assert filled[2] == f"| 1 | record | `a.lua` | `{TEST}`, `{other}` | {said} |"
    assert filled[3] == f"| 2 | else | `b` | `{other}` | no figure |"
    assert filled[0] == "# Title"
