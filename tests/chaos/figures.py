"""What a chapter measured beside the bar it had to reach: printed, kept as JSON, made into a table."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One line of the table. `promise` is its number in the README; `figure` and `bar` are words."""

    promise: int
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
    return sorted(found, key=lambda figure: figure.promise)


def table(figures: list[Figure]) -> str:
    """Return the figures as a table in Markdown."""
    head = "| promise | what was done | figure | bar | held | test |\n| --- | --- | --- | --- | --- | --- |\n"
    return head + "".join(
        f"| {one.promise} | {_cell(one.what)} | {_cell(one.figure)} | {_cell(one.bar)} "
        f"| {'yes' if one.held else '**no**'} | `{one.test}` |\n"
        for one in figures
    )


def _cell(words: str) -> str:
    """Return words that stay in one cell, whatever was measured."""
    return " ".join(words.split()).replace("|", "\\|")
