"""The parts that reports of several kinds have in common, each as Markdown."""

from collections.abc import Sequence

from shared.contracts.evaluation import Comparison, Evaluation, Verdict
from shared.contracts.findings import Finding
from shared.contracts.reports import AskedTransferSet, Cost, JobReport, Plot, TrainingCurve
from shared.contracts.served_graphs import GraphChoice
from shared.contracts.students import Latency
from shared.distillation.reports.words import cell, p_value, pictures, points, size, table

MOST_CLASSES = 20
"""Classes a table shows one by one; of more, those with the most errors."""
MOST_CONFUSIONS = 10
_SHOWN_EPOCHS = 6
_MEANING = {
    Verdict.BEATS: "The whole interval lies above 0: teaching was worth it.",
    Verdict.DOES_NOT_BEAT: "The interval excludes a gain that would be worth a teacher.",
    Verdict.INCONCLUSIVE: "The interval excludes neither a worthwhile gain nor none: "
    "more seeds or more test images would tell.",
}


def job(report: JobReport) -> tuple[str, str]:
    """Return the fact that says which job and when."""
    return "Job", f"`{report.job_id}`, {report.created_at:%Y-%m-%d %H:%M} UTC"


def warnings(report: JobReport) -> list[str]:
    """Return the warnings as one paragraph each, or nothing."""
    return [f"> **Warning:** {cell(warning)}" for warning in report.warnings]


def findings(found: Sequence[Finding]) -> str:
    """Return the checks of a teacher as a table, in their order."""
    return table(
        ("check", "outcome", "found", "advice"),
        ((cell(one.check), one.outcome, cell(one.detail), cell(one.advice)) for one in found),
    )


def verdict_sentence(comparison: Comparison) -> str:
    """Return the verdict with its gain, interval and p-value in one sentence; gains in percentage points."""
    low, high = comparison.interval
    return (
        f"**{comparison.verdict}**: taught minus untaught accuracy is {points(comparison.gain)} points "
        f"(95 % interval {points(low)} to {points(high)}, p = {p_value(comparison.p_value)}, "
        f"{len(comparison.seeds)} seeds). {_MEANING[comparison.verdict]}"
    )


def method(comparison: Comparison) -> str:
    """Return how the verdict was found."""
    return (
        f"Method: {comparison.method}; {comparison.degrees_of_freedom:.1f} degrees of freedom. A gain below "
        f"{comparison.margin * 100:g} points would not be worth a teacher."
    )


def evaluations(nets: Sequence[tuple[str, Evaluation, int | None]]) -> str:
    """Return models side by side: their name, their figures, their parameters where they can be seen."""
    return table(
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
                f"{parameters:,}" if parameters is not None else "unknown",
            )
            for name, one, parameters in nets
        ),
    )


def seeds(comparison: Comparison) -> str:
    """Return taught against untaught, a row a seed."""
    return table(
        ("seed", "untaught", "distilled", "gain (points)", "agrees with the teacher"),
        (
            (
                str(one.seed),
                f"{one.untaught_accuracy:.2%}",
                f"{one.taught_accuracy:.2%}",
                points(one.taught_accuracy - one.untaught_accuracy),
                f"{one.taught_agreement:.2%}" if one.taught_agreement is not None else "",
            )
            for one in comparison.seeds
        ),
    )


def errors_by_class(nets: Sequence[tuple[str, Evaluation]]) -> str:
    """Return errors a class; of many classes those with the most errors of the last net, worst first."""
    last_name, last = nets[-1]
    classes = list(last.errors_by_class)
    images = dict(zip(classes, map(sum, last.confusion), strict=True))
    shown = classes
    words = ""
    if len(classes) > MOST_CLASSES:
        shown = sorted(classes, key=lambda one: -last.errors_by_class[one])[:MOST_CLASSES]
        right = sum(not errors for errors in last.errors_by_class.values())
        words = (
            f"\n\nThe {MOST_CLASSES} of {len(classes)} classes with the most errors of {last_name}, which "
            f"has none in {right}. The JSON has all."
        )
    rows = (
        (
            cell(one),
            f"{images[one]:,}",
            *(str(evaluation.errors_by_class[one]) for _, evaluation in nets),
        )
        for one in shown
    )
    return table(("class", "images", *[name for name, _ in nets]), rows) + words


def confusions(evaluation: Evaluation) -> str:
    """Return which class is most often taken for which, or that none is."""
    classes = list(evaluation.errors_by_class)
    pairs = [
        (count, -true, -predicted)
        for true, row in enumerate(evaluation.confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    if not pairs:
        return "No class is taken for another."
    return table(
        ("true class", "taken for", "images"),
        (
            (cell(classes[-true]), cell(classes[-predicted]), str(count))
            for count, true, predicted in sorted(pairs, reverse=True)[:MOST_CONFUSIONS]
        ),
    )


def latencies(measured: Sequence[Latency], teacher_ms: float | None) -> str:
    """Return the student's time a call and, where it was measured, the teacher's over HTTP."""
    rows = [
        (
            "student, in process",
            str(one.batch),
            f"{one.p50_ms:.3f}",
            f"{one.p99_ms:.3f}",
            f"{one.calls} calls on {one.threads} thread(s)",
        )
        for one in measured
    ]
    if teacher_ms is not None:
        rows.append(("teacher, over HTTP", "1", f"{teacher_ms:.3f}", "", ""))
    return table(("", "batch", "median (ms)", "99th percentile (ms)", ""), rows)


def graphs(choice: GraphChoice | None) -> list[str]:
    """Return which ONNX graph is served and what it was chosen from, or nothing where there was no choice."""
    if choice is None:
        return []
    measured = (
        f"`{choice.file}` is served. Agreement with float32 on {choice.images:,} validation images "
        f"({choice.calibration_images} others calibrated int8-static); times on one thread of "
        f"{cell(choice.cpu)}, {choice.runtime}, in turns with float32."
        if choice.images
        else f"`{choice.file}` is served."
    )
    batches = [timing.batch for timing in choice.candidates[0].timings]
    rows = table(
        (
            "graph",
            "size",
            *(f"batch {batch} (ms, times as quick)" for batch in batches),
            "same class",
            "accuracy",
            "KL (nats)",
            "why",
        ),
        (
            (
                f"**{one.name}**" if one.served else one.name,
                "" if one.size_bytes is None else size(one.size_bytes),
                *(
                    [f"{timing.cpu_ms:.3f}, {timing.speedup:.2f}" for timing in one.timings]
                    or [""] * len(batches)
                ),
                *("" if share is None else f"{share:.2%}" for share in (one.same_class, one.accuracy)),
                "" if one.kl_nats is None else f"{one.kl_nats:.2g}",
                cell(one.reason),
            )
            for one in choice.candidates
        ),
    )
    return [measured, rows]


def training(curves: Sequence[TrainingCurve], plots: Sequence[Plot] = ()) -> list[str]:
    """Return the plot of the curves, where there is one, and a row a net."""
    rows = table(
        ("arm", "seed", "best epoch", "validation accuracy by epoch", "last loss (nats)", "seconds"),
        (
            (
                cell(curve.arm),
                str(curve.seed),
                str(curve.best_epoch),
                _course(curve),
                f"{curve.points[-1].loss:.4f}",
                f"{curve.points[-1].seconds:.1f}",
            )
            for curve in curves
        ),
    )
    return [*drawing("curves", plots), rows]


def drawing(name: str, plots: Sequence[Plot]) -> list[str]:
    """Return the picture of that name, or nothing where the report has none."""
    return [pictures([plot]) for plot in plots if plot.name == name]


def cost(spent: Cost) -> str:
    """Return seconds a stage, rows asked, and where it ran."""
    stages = table(
        ("stage", "seconds"), ((stage, f"{seconds:.1f}") for stage, seconds in spent.seconds.items())
    )
    return (
        f"{stages}\n\n{spent.teacher_rows:,} rows asked of a teacher, {spent.cached_rows:,} rows from the "
        f"cache. {spent.device}, {spent.threads} thread(s), torch {spent.torch}, imago {spent.imago}."
    )


def asked(how: AskedTransferSet | None) -> list[str]:
    """Return how a job came by its transfer set, as one paragraph, or nothing."""
    if how is None:
        return []
    cost = how.cost
    told = [
        f"Of the transfer set {cost.rows_asked:,} rows were asked for, {cost.rows_from_cache:,} were stored"
    ]
    if cost.rows_rescored:
        told.append(f"{cost.rows_rescored:,} stored rows were asked for again and agreed")
    if cost.shards_rebuilt:
        told.append(f"{cost.shards_rebuilt} damaged shard(s) were written anew")
    if how.waited_share is not None:
        told.append(f"training waited for the teacher in {how.waited_share:.1%} of its time")
    if how.top_k_error is not None:
        errors = ", ".join(
            f"{one.mean_nats:.2g} nats at T = {one.temperature:g} (largest {one.largest_nats:.2g})"
            for one in how.top_k_error
        )
        told.append(f"of each row the largest logits are kept, which costs a KL divergence of {errors}")
    return ["; ".join(told) + "."]


def _course(curve: TrainingCurve) -> str:
    """Return a few validation accuracies, evenly spread, the first and the last among them."""
    last = len(curve.points) - 1
    shown = sorted({round(i * last / (_SHOWN_EPOCHS - 1)) for i in range(_SHOWN_EPOCHS)})
    return ", ".join(
        f"{point.epoch}: {point.validation_accuracy:.2%}"
        for point in (curve.points[i] for i in shown)
        if point.validation_accuracy is not None
    )
