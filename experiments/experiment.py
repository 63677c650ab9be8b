"""What an experiment is: jobs to run, figures to read from their reports, and what they have to reach.

Definitions only: nothing here speaks to a stack (`runner.py`) or writes a file (`pages.py`, `charts.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from experiments.result import Figure, Finding, Published, Values
from shared.contracts.evaluation import NetFigures
from shared.contracts.reports import DistillationReport, JobReport, TeacherReport
from shared.contracts.specs import JobSpec

ReportT = TypeVar("ReportT", bound=JobReport)

SEEDS = (0, 1, 2)
"""Of students, where nothing else is asked for."""


@dataclass(frozen=True)
class Form:
    """In which form an experiment is run.

    Attributes:
        reduced: smaller, so that it finishes on two CPU cores; each experiment says what it leaves out.
        seeds: of the students.
    """

    reduced: bool = False
    seeds: tuple[int, ...] = SEEDS

    @property
    def name(self) -> str:
        """`reduced` or `full`."""
        return "reduced" if self.reduced else "full"

    def __call__(self, full: int, reduced: int) -> int:
        """Return the number for this form."""
        return reduced if self.reduced else full

    def named(self, experiment: str, step: str) -> str:
        """Return what a step's student or teacher is called. The two forms never share a name."""
        return f"exp-{experiment}-{step}" + ("-reduced" if self.reduced else "")


@dataclass(frozen=True)
class JobStep:
    """A job of the experiment.

    Attributes:
        name: unique in the experiment; what the figures are read by.
        spec: what is asked for.
        after: names of steps whose outcome this one builds on, such as the teacher's.
    """

    name: str
    spec: JobSpec
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Computation:
    """Something that is no job: it is computed in this process.

    Attributes:
        name: unique in the experiment.
        module: dotted name of a module with `run(form) -> dict[str, Values]`. It is imported when it is run,
            because it loads torch.
    """

    name: str
    module: str


@dataclass(frozen=True)
class Action:
    """Something that is no job and needs the running stack, such as traffic.

    Attributes:
        name: unique in the experiment.
        module: dotted name of a module, imported when the action is run.
        function: its `function(form, api, outcomes) -> dict[str, Values]`; `outcomes` are those of the steps
            before. Run again, it finds what it did before and does not do it twice.
        makes: datasets that there are only after it.
    """

    name: str
    module: str
    function: str
    makes: tuple[str, ...] = ()


Step = JobStep | Computation | Action


@dataclass(frozen=True)
class Outcomes:
    """What the steps came to, by name of step."""

    form: Form
    reports: Mapping[str, JobReport] = field(default_factory=dict)
    computed: Mapping[str, Mapping[str, Values]] = field(default_factory=dict)

    def report(self, step: str, kind: type[ReportT]) -> ReportT:
        """Return a step's report; a `TypeError` where it is of another kind than the spec's."""
        report = self.reports[step]
        if not isinstance(report, kind):
            raise TypeError(f"the report of {step!r} is a {type(report).__name__}, not a {kind.__name__}")
        return report

    def teacher(self, step: str) -> TeacherReport:
        """Return the report of a teacher."""
        return self.report(step, TeacherReport)

    def distillation(self, step: str) -> DistillationReport:
        """Return the report of a distillation."""
        return self.report(step, DistillationReport)

    def nets(self, step: str, arm: str) -> tuple[NetFigures, ...]:
        """Return the nets of an arm (`taught` or `untaught`) on the test split, by seed."""
        found = [net for net in self.distillation(step).nets if net.arm == arm]
        return tuple(sorted(found, key=lambda net: net.seed))


@dataclass(frozen=True)
class Experiment:
    """A named experiment.

    Attributes:
        name: as in `imago experiments run NAME`.
        title: one line.
        source: where the published figure stands.
        published: the published figures.
        to_reach: in words; `summarise` decides whether it is.
        reduced: what the reduced form leaves out.
        minutes: estimated on two quiet cores with AMX, (full, reduced).
        steps: the steps of a form, in order: a step comes after those it builds on.
        summarise: reads the figures and gives the verdict.
    """

    name: str
    title: str
    source: str
    published: tuple[Published, ...]
    to_reach: str
    reduced: str
    minutes: tuple[int, int]
    steps: Callable[[Form], Sequence[Step]]
    summarise: Callable[[Outcomes], Finding]


def errors(
    label: str, nets: tuple[NetFigures, ...], *, unit: str = "errors", published: float | None = None
) -> Figure:
    """Return the test errors of nets, one a seed."""
    return Figure(
        label=label,
        unit=unit,
        values=tuple(float(net.errors) for net in nets),
        seeds=tuple(net.seed for net in nets),
        published=published,
    )


def accuracies(label: str, nets: tuple[NetFigures, ...], *, published: float | None = None) -> Figure:
    """Return the test accuracies of nets in per cent, one a seed."""
    return Figure(
        label=label,
        unit="%",
        values=tuple(100 * net.accuracy for net in nets),
        seeds=tuple(net.seed for net in nets),
        published=published,
    )
