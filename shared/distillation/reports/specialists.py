"""The page and the plots of a job of kind `specialists`."""

from shared.contracts.reports import CoverageRow, SpecialistsReport
from shared.distillation.plots import Drawing, Line, plot_confusion, plot_curves, plot_lines, plot_reliability
from shared.distillation.reports import sections, words

_MOST_NAMED = 12


def page(report: SpecialistsReport) -> list[str]:
    """Return the sections of the page; the gain comes first."""
    spec = report.spec
    return [
        f"# Generalist and specialists {report.student_version}",
        _gain(report),
        *sections.warnings(report),
        words.facts(
            sections.job(report),
            ("Generalist", f"{spec.generalist}, `{report.generalist_digest[:12]}`"),
            ("As a teacher", f"{spec.name}, `{report.teacher_digest[:12]}`"),
            ("Dataset", f"{spec.dataset}, `{report.dataset_digest[:12]}`"),
            (
                "Transfer set",
                f"`{report.transfer_set_digest[:12]}`, {words.transfer_set(spec.transfer_set)}",
            ),
            ("Sets", _plan(report)),
            ("Specialists learn from", _taught(report)),
            ("Regularisation", words.regularisation(spec.training.regularisation)),
            ("Budget", words.budget(spec.training.budget)),
            ("Asked", f"specialists that cover any of the generalist's top {spec.top_n}"),
        ),
        "## On the test split, at T = 1",
        sections.evaluations(
            [
                ("generalist", report.generalist, report.generalist_parameters),
                (f"with specialists, seed {report.seed}", report.combined, report.parameters),
            ]
        ),
        *sections.drawing("reliability", report.plots),
        "## Seed by seed",
        _seeds(report),
        f"Method: {report.comparison.method}; {report.comparison.degrees_of_freedom:.1f} degrees of freedom.",
        "## By number of covering specialists",
        _coverage(report),
        *sections.drawing("coverage", report.plots),
        "## The specialists",
        _specialists(report),
        "The correction is log((1 - s) / s) for the natural share s of a specialist's classes: half of what "
        "it was trained on is special. Validation accuracies are over its own classes and the rest, on "
        "images half of which are special.",
        "## Errors by class",
        sections.errors_by_class(
            [("generalist", report.generalist), ("with specialists", report.combined)],
        ),
        "## Confusions of generalist and specialists together",
        sections.confusions(report.combined),
        *sections.drawing("confusion", report.plots),
        "## Latency, in process",
        _latencies(report),
        "## Training",
        *sections.training(report.curves, report.plots),
        "## Cost",
        sections.cost(report.cost),
        *sections.asked(report.asked),
    ]


def drawings(report: SpecialistsReport) -> list[Drawing]:
    """Return the plots."""
    drawn = [
        plot_reliability([("generalist", report.generalist), ("with specialists", report.combined)]),
        plot_confusion(list(report.combined.errors_by_class), report.combined.confusion),
        plot_curves(report.curves),
    ]
    rows = [row for row in report.coverage if row.relative_change is not None]
    if rows:
        gain = Line(
            "with specialists",
            [float(row.covering) for row in rows],
            [100 * (row.relative_change or 0.0) for row in rows],
        )
        drawn.append(
            plot_lines(
                "coverage",
                "Change in right answers by number of covering specialists",
                [gain],
                x_label="specialists that cover the true class",
                y_label="relative change (%)",
            )
        )
    return drawn


def _gain(report: SpecialistsReport) -> str:
    comparison = report.comparison
    low, high = comparison.interval
    before = report.generalist.accuracy
    relative = f", {comparison.gain / before:+.1%} relative" if before else ""
    return (
        f"**{comparison.verdict}**: with specialists minus the generalist alone, accuracy is "
        f"{words.points(comparison.gain)} points (95 % interval {words.points(low)} to {words.points(high)}, "
        f"p = {words.p_value(comparison.p_value)}, {len(comparison.seeds)} seeds){relative}. "
        f"They go live only where this is a gain."
    )


def _plan(report: SpecialistsReport) -> str:
    plan, sets = report.spec.plan, len(report.specialists)
    if plan.classes is not None:
        return f"{sets}, as given"
    found = "from the covariance of the generalist's predictions"
    return f"{sets} of {plan.size} classes, {found}, seed {plan.seed}"


def _taught(report: SpecialistsReport) -> str:
    training = report.spec.training
    if training.rest == "soft_targets":
        return (
            "hard targets of special images and the generalist's soft targets of all others, over all classes"
        )
    return (
        f"hard labels (weight {training.hard_weight:g}) and the generalist's soft targets "
        f"(weight {training.soft_weight:g}, T = {training.temperature:g}), all other classes in one dustbin"
    )


def _seeds(report: SpecialistsReport) -> str:
    return words.table(
        ("seed", "generalist", "with specialists", "gain (points)", "names the generalist's class"),
        (
            (
                str(one.seed),
                f"{one.untaught_accuracy:.2%}",
                f"{one.taught_accuracy:.2%}",
                words.points(one.taught_accuracy - one.untaught_accuracy),
                "" if one.taught_agreement is None else f"{one.taught_agreement:.2%}",
            )
            for one in report.comparison.seeds
        ),
    )


def _coverage(report: SpecialistsReport) -> str:
    return words.table(
        (
            "specialists covering",
            "test images",
            "generalist right",
            "change in right (mean)",
            "relative change",
            "change, seed by seed",
        ),
        (_coverage_row(row) for row in report.coverage),
    )


def _coverage_row(row: CoverageRow) -> tuple[str, ...]:
    relative = row.relative_change
    return (
        f"{row.covering}{' or more' if row.or_more else ''}",
        f"{row.examples:,}",
        f"{row.generalist_correct:,}",
        f"{row.change:+.1f}",
        "" if relative is None else f"{relative:+.1%}",
        ", ".join(f"{change:+d}" for change in row.changes),
    )


def _specialists(report: SpecialistsReport) -> str:
    return words.table(
        ("", "classes", "natural share", "correction", "test images asked", "validation accuracy by seed"),
        (
            (
                str(number),
                _names(one.classes),
                f"{one.share:.2%}",
                f"{one.correction:+.3f}",
                f"{one.asked:,}",
                ", ".join("" if value is None else f"{value:.2%}" for value in one.validation_accuracies),
            )
            for number, one in enumerate(report.specialists)
        ),
    )


def _names(classes: tuple[str, ...]) -> str:
    more = f" and {len(classes) - _MOST_NAMED} more" if len(classes) > _MOST_NAMED else ""
    return ", ".join(words.cell(name) for name in classes[:_MOST_NAMED]) + more


def _latencies(report: SpecialistsReport) -> str:
    return words.table(
        ("", "batch", "median (ms)", "99th percentile (ms)", ""),
        (
            (
                name,
                str(one.batch),
                f"{one.p50_ms:.3f}",
                f"{one.p99_ms:.3f}",
                f"{one.calls} calls on {one.threads} thread(s), validation images",
            )
            for name, measured in (
                ("generalist alone", report.generalist_latency),
                ("with specialists", report.latency),
            )
            for one in measured
        ),
    )
