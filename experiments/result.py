"""What an experiment came to, as `docs/experiments/NAME.json` keeps it; page and chart are made from it."""

import statistics
from datetime import datetime
from typing import Literal

from pydantic import Field

from shared.contracts.base import Contract

Values = tuple[float, ...]

ENOUGH_SEEDS = 3
"""Of students; a page says where there are fewer."""


class Published(Contract):
    """A published figure: what it is of, and the figure as it was printed."""

    label: str
    figure: str


class Figure(Contract):
    """A figure of ours: one value a seed."""

    label: str
    unit: str
    """Such as `errors` or `%`."""
    values: Values = Field(min_length=1)
    seeds: tuple[int, ...] = ()
    """Of the values, in the same order; empty where the values do not come from seeds."""
    published: float | None = None
    """The published figure in the same unit."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Sample standard deviation over seeds; 0 of one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def words(self) -> str:
        """Mean, spread and unit, such as `74.3 ± 2.1 errors`."""
        digits = 1 if self.unit == "errors" else 2
        text = f"{self.mean:.{digits}f}"
        if len(self.values) > 1:
            text += f" ± {self.spread:.{digits}f}"
        return f"{text} {self.unit}".rstrip()


class Series(Contract):
    """A line of a chart: a value at each x, with its spread where it is a mean."""

    name: str
    x: Values
    y: Values
    spread: Values = ()


class Chart(Contract):
    """Lines over a common axis. Without a chart an experiment's figures are drawn, a row each."""

    title: str
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    series: tuple[Series, ...]
    levels: tuple[tuple[str, float], ...] = ()
    """Horizontal lines to compare with: name and value."""


class Table(Contract):
    """A table of its own, for what is more than a figure a seed."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Finding(Contract):
    """The figures and what follows from them."""

    figures: tuple[Figure, ...]
    headline: str
    """Our figure in a few words, for the index."""
    reached: bool | None
    """Whether `to_reach` is; None where nothing is to be reached."""
    verdict: str
    """In a sentence, with the figures it rests on."""
    chart: Chart | None = None
    tables: tuple[Table, ...] = ()


class ExperimentFacts(Contract):
    """An experiment before it is run, as `imago experiments list --json` tells it, one a line."""

    name: str
    title: str
    source: str
    published: tuple[Published, ...]
    to_reach: str
    reduced: str
    """What the reduced form leaves out."""


class Machine(Contract):
    """Where it ran."""

    cpu: str
    cores: int
    memory_gib: float
    devices: tuple[str, ...] = ()
    """What the jobs trained on, as their reports say."""
    torch: str = ""


class StepRun(Contract):
    """A step as it ran."""

    step: str
    kind: str
    job_id: str | None
    """None of a computation."""
    seconds: float
    teacher_rows: int
    """Rows that a teacher was asked about."""
    ended_at: datetime | None = None
    """None in results of before this was noted."""
    found: bool | None = None
    """Whether an earlier run had asked for the job, perhaps at another commit; None as above."""


class ExperimentResult(Contract):
    """`docs/experiments/NAME.json`."""

    name: str
    title: str
    source: str
    published: tuple[Published, ...]
    to_reach: str
    form: Literal["full", "reduced"]
    left_out: str
    """What the reduced form leaves out; empty of the full form."""
    finding: Finding
    seeds: tuple[int, ...]
    wall_s: float
    """Sum of the steps' seconds; those of a shared teacher are in it, though other experiments use it too."""
    steps: tuple[StepRun, ...]
    machine: Machine
    commit: str
    """At which figures were read and the page was written; jobs that were found again are older."""
    command: str
    finished_at: datetime

    @property
    def few_seeds(self) -> bool:
        """Whether students were trained with fewer seeds than a spread needs."""
        return 0 < len(self.seeds) < ENOUGH_SEEDS
