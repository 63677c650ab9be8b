"""Reports as Markdown, for people. All they say comes from the report's JSON; nothing is measured here."""

import re
from collections.abc import Iterable, Sequence

from shared.contracts.architectures import Architecture, Mlp
from shared.contracts.evaluation import Comparison, Evaluation, Verdict
from shared.contracts.reports import Cost, DistillationReport, TeacherReport, TrainingCurve
from shared.contracts.students import Latency

_MEANING = {
    Verdict.BEATS: "The whole interval lies above 0: teaching was worth it.",
    Verdict.DOES_NOT_BEAT: "The interval excludes a gain that would be worth a teacher.",
    Verdict.INCONCLUSIVE: "The interval excludes neither a worthwhile gain nor none: "
    "more seeds or more test images would tell.",
}
_SHOWN_EPOCHS = 6


def markdown(report: TeacherReport | DistillationReport) -> str:
    """Return the report as a Markdown page, ending in a newline."""
    sections = _teacher(report) if isinstance(report, TeacherReport) else _distillation(report)
    return "\n\n".join(sections) + "\n"


def verdict_sentence(comparison: Comparison) -> str:
    """Return the verdict with its gain, interval and p-value in one sentence; gains in percentage points."""
    low, high = comparison.interval
    return (
        f"**{comparison.verdict}**: taught minus untaught accuracy is {_points(comparison.gain)} points "
        f"(95 % interval {_points(low)} to {_points(high)}, p = {_p_value(comparison.p_value)}, "
        f"{len(comparison.seeds)} seeds). {_MEANING[comparison.verdict]}"
    )


def _teacher(report: TeacherReport) -> list[str]:
    spec = report.spec
    members = f"{len(spec.seeds)} nets, merged by the {spec.merge} mean" if len(spec.seeds) > 1 else "one net"
    return [
        f"# Teacher {spec.name}",
        _facts(
            ("Job", f"`{report.job_id}`, {report.created_at:%Y-%m-%d %H:%M} UTC"),
            ("Teacher", f"`{report.teacher_digest[:12]}`, {members}"),
            ("Dataset", f"{spec.dataset}, `{report.dataset_digest[:12]}`"),
            ("Network", _network(spec.architecture)),
        ),
        "## On the test split",
        _evaluations([("teacher", report.evaluation, report.parameters)]),
        "## Errors by class",
        _errors_by_class([("teacher", report.evaluation)]),
        "## Training",
        _curves(report.curves),
        "## Cost",
        _cost(report.cost),
    ]


def _distillation(report: DistillationReport) -> list[str]:
    spec, comparison = report.spec, report.comparison
    nets = [
        ("teacher", report.teacher, report.teacher_parameters),
        ("untaught", report.untaught, report.student_parameters),
        ("distilled", report.taught, report.student_parameters),
    ]
    objective = spec.objective
    return [
        f"# Student {report.student_version}",
        verdict_sentence(comparison),
        _facts(
            ("Job", f"`{report.job_id}`, {report.created_at:%Y-%m-%d %H:%M} UTC"),
            ("Teacher", f"{spec.teacher}, `{report.teacher_digest[:12]}`"),
            ("Dataset", f"{spec.dataset}, `{report.dataset_digest[:12]}`"),
            (
                "Transfer set",
                f"`{report.transfer_set_digest[:12]}`, {spec.transfer_set.views} view(s) an image",
            ),
            ("Student", _network(spec.student.network)),
            (
                "Objective",
                f"T = {objective.temperature:g}, soft weight {objective.soft_weight:g}, "
                f"hard weight {objective.hard_weight:g}",
            ),
        ),
        "## On the test split, at T = 1",
        _evaluations(nets),
        f"The distilled student names the teacher's class on {report.agreement:.2%} of the test images.",
        "## The verdict, seed by seed",
        _seeds(comparison),
        f"Method: {comparison.method}; {comparison.degrees_of_freedom:.1f} degrees of freedom. A gain below "
        f"{comparison.margin * 100:g} points would not be worth a teacher.",
        "## Errors by class",
        _errors_by_class([(name, evaluation) for name, evaluation, _ in nets]),
        "## Latency",
        _latencies(report.latency, report.teacher_latency_ms),
        "## Training",
        _curves(report.curves),
        "## Cost",
        _cost(report.cost),
    ]


# --- sections ----------------------------------------------------------------------------------------------


def _evaluations(nets: Sequence[tuple[str, Evaluation, int]]) -> str:
    return _table(
        ("", "errors", "accuracy", "95 % interval", "NLL (nats)", "Brier", "ECE", "parameters"),
        (
            (
                name,
                f"{one.errors} of {one.examples:,}",
                f"{one.accuracy:.2%}",
                f"{one.accuracy_interval[0]:.2%} to {one.accuracy_interval[1]:.2%}",
                f"{one.nll:.4f}",
                f"{one.brier:.4f}",
                f"{one.ece:.4f}",
                f"{parameters:,}",
            )
            for name, one, parameters in nets
        ),
    )


def _seeds(comparison: Comparison) -> str:
    return _table(
        ("seed", "untaught", "distilled", "gain (points)", "agrees with the teacher"),
        (
            (
                str(one.seed),
                f"{one.untaught_accuracy:.2%}",
                f"{one.taught_accuracy:.2%}",
                _points(one.taught_accuracy - one.untaught_accuracy),
                f"{one.taught_agreement:.2%}",
            )
            for one in comparison.seeds
        ),
    )


def _errors_by_class(nets: Sequence[tuple[str, Evaluation]]) -> str:
    classes = list(nets[0][1].errors_by_class)
    return _table(
        ("class", *[name for name, _ in nets]),
        ((_cell(one), *[str(evaluation.errors_by_class[one]) for _, evaluation in nets]) for one in classes),
    )


def _latencies(latencies: Sequence[Latency], teacher_ms: float | None) -> str:
    rows = [
        (
            "student, in process",
            str(one.batch),
            f"{one.p50_ms:.3f}",
            f"{one.p99_ms:.3f}",
            f"{one.calls} calls on {one.threads} thread(s)",
        )
        for one in latencies
    ]
    if teacher_ms is not None:
        rows.append(("teacher, over HTTP", "1", f"{teacher_ms:.3f}", "", ""))
    return _table(("", "batch", "median (ms)", "99th percentile (ms)", ""), rows)


def _curves(curves: Sequence[TrainingCurve]) -> str:
    return _table(
        ("arm", "seed", "best epoch", "validation accuracy by epoch", "last loss (nats)", "seconds"),
        (
            (
                curve.arm,
                str(curve.seed),
                str(curve.best_epoch),
                _course(curve),
                f"{curve.points[-1].loss:.4f}",
                f"{curve.points[-1].seconds:.1f}",
            )
            for curve in curves
        ),
    )


def _course(curve: TrainingCurve) -> str:
    """Return a few validation accuracies, evenly spread, the first and the last among them."""
    last = len(curve.points) - 1
    shown = sorted({round(i * last / (_SHOWN_EPOCHS - 1)) for i in range(_SHOWN_EPOCHS)})
    return ", ".join(
        f"{point.epoch}: {point.validation_accuracy:.2%}"
        for point in (curve.points[i] for i in shown)
        if point.validation_accuracy is not None
    )


def _cost(cost: Cost) -> str:
    stages = _table(
        ("stage", "seconds"), ((stage, f"{seconds:.1f}") for stage, seconds in cost.seconds.items())
    )
    return (
        f"{stages}\n\n{cost.teacher_rows:,} rows asked of a teacher. "
        f"{cost.device}, {cost.threads} thread(s), torch {cost.torch}, imago {cost.imago}."
    )


# --- words and tables --------------------------------------------------------------------------------------


def _facts(*facts: tuple[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts)


def _network(architecture: Architecture) -> str:
    if isinstance(architecture, Mlp):
        return f"perceptron with hidden layers of {', '.join(map(str, architecture.hidden_units))} units"
    return _cell(", ".join(f"{name} {value}" for name, value in architecture.model_dump().items()))


def _points(share: float) -> str:
    return f"{share * 100:+.2f}"


def _p_value(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _cell(text: str) -> str:
    """Return text as it may stand in a table cell: class names are the users' own."""
    return " ".join(re.sub(r"([\\`|*_<>&\[\]])", r"\\\1", text).split())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
