"""What a chapter measured beside the bar it had to reach: printed, kept as JSON, made into a table."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Figure:
    """One line of the table; `figure` and `bar` are words.

    `promise` is its number in the README, None where a test ended before it said which.
    """

    promise: int | None
    what: str
    figure: str
    bar: str
    held: bool
    test: str = ""

    def line(self) -> str:
        return f"{'ok  ' if self.held else 'FAIL'} {self.what}: {self.figure} (bar: {self.bar})"


def append(path: Path, figure: Figure) -> None:
    """Add a figure to a file of JSON lines, which several processes may share."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(figure)) + "\n")


def read(path: Path) -> list[Figure]:
    """Return what was added, by promise and then as it came."""
    if not path.exists():
        return []
    found = [Figure(**json.loads(line)) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda figure: figure.promise or 0)


def without_figure(report: pytest.TestReport, told: Path) -> Figure | None:
    """Return a figure for a test that was skipped, or failed without saying by which of its own."""
    if report.passed:
        return None
    if report.failed and any(one.test == report.nodeid and not one.held for one in read(told)):
        return None
    words = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    else:
        reason = f"failed: {_last_line(report)}"
    return Figure(None, words, reason, "it runs to its end", False, report.nodeid)


def _last_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    said = crash.message if crash is not None else report.longreprtext
    return said.strip().splitlines()[0] if said.strip() else report.when or ""


def table(figures: list[Figure]) -> str:
    """Return the figures as a table in Markdown."""
    head = "| promise | what was done | figure | bar | held | test |\n| --- | --- | --- | --- | --- | --- |\n"
    return head + "".join(
        f"| {one.promise or '?'} | {_cell(one.what)} | {_cell(one.figure)} | {_cell(one.bar)} "
        f"| {'yes' if one.held else '**no**'} | `{one.test}` |\n"
        for one in figures
    )


def beside_mechanisms(page: str, figures: list[Figure]) -> str:
    """Return a page with the figures in the last column of each row that names their tests."""
    lines = [_with_figures(line, figures) if _ROW.match(line) else line for line in page.splitlines()]
    return "\n".join(lines) + "\n"


_ROW = re.compile(r"\| (\d|all) \| .*`tests/chaos/\w+\.py::")
"""A row of the table of mechanisms: its number, and the tests that break it."""


def _with_figures(row: str, figures: list[Figure]) -> str:
    cells = row.strip("| \n").split(" | ")
    named = re.findall(r"`(tests/chaos/\w+\.py::\w+)`", cells[_TESTS])
    found = [one for test in named for one in figures if one.test.partition("[")[0] == test]
    said = "; ".join(f"{_cell(one.figure)}{'' if one.held else ' (**below its bar**)'}" for one in found)
    return "| " + " | ".join([*cells[: _TESTS + 1], said or "no figure"]) + " |"


_TESTS = 3
"""The column of a row that names tests; the figures are in the next."""


def _cell(words: str) -> str:
    """Return words that stay in one cell, whatever was measured."""
    return " ".join(words.split()).replace("|", "\\|")
