"""A result for the tests of pages and charts."""

from datetime import UTC, datetime

from experiments.result import (
    Chart,
    ExperimentResult,
    Figure,
    Finding,
    Machine,
    Published,
    Series,
    StepRun,
    Table,
)

ERRORS = Figure(label="distilled", unit="errors", values=(70.0, 74.0, 78.0), seeds=(0, 1, 2), published=74.0)
ACCURACY = Figure(label="untaught | twin", unit="%", values=(98.5,))

CHART = Chart(
    title="Accuracy",
    x_label="T",
    y_label="%",
    log_x=True,
    series=(Series(name="wide", x=(1.0, 2.0), y=(98.0, 98.5), spread=(0.1, 0.2)),),
    levels=(("untaught", 97.0),),
)


def result(chart: Chart | None = None, *, reached: bool | None = True) -> ExperimentResult:
    return ExperimentResult(
        name="mnist",
        title="A student of digits",
        source="arXiv:1503.02531",
        published=(Published(label="errors", figure="67, 146, 74"),),
        to_reach="distilled ≤ 74 errors",
        form="reduced",
        left_out="half of the epochs",
        finding=Finding(
            figures=(ERRORS, ACCURACY),
            headline="74 errors",
            reached=reached,
            verdict="It is reached.",
            chart=chart,
            tables=(Table(title="By T", columns=("T", "errors"), rows=(("1", "90"),)),),
        ),
        seeds=(0, 1, 2),
        wall_s=725.0,
        steps=(StepRun(step="teacher", kind="teacher", job_id="j-1", seconds=600.0, teacher_rows=0),),
        machine=Machine(cpu="A CPU", cores=2, memory_gib=8.0, devices=("cpu, 2 thread(s)",), torch="2.13"),
        commit="abc",
        command="imago experiments run mnist --reduced",
        finished_at=datetime(2026, 11, 21, 12, tzinfo=UTC),
    )
