"""The page and the plot of a job of kind `transfer_set`."""

from shared.contracts.reports import TransferSetReport
from shared.contracts.transfer_sets import TransferSetSummary
from shared.distillation.plots import Drawing, plot_entropy
from shared.distillation.reports import sections, words


def page(report: TransferSetReport) -> list[str]:
    """Return the sections of the page: what was asked first."""
    spec, summary = report.spec, report.summary
    return [
        f"# Transfer set {spec.name}",
        *sections.asked(report.asked),
        *sections.warnings(report),
        words.facts(
            sections.job(report),
            ("Transfer set", f"`{report.transfer_set_digest}`"),
            ("Teacher", f"{spec.teacher}, `{report.teacher_digest[:12]}`"),
            ("Dataset", f"{spec.dataset}, `{report.dataset_digest[:12]}`"),
            ("Images and views", words.transfer_set(spec.transfer_set)),
            ("Rows", f"{summary.rows:,} of {report.images:,} images, {summary.rows_labelled:,} with a label"),
        ),
        "## Entropy of the targets",
        *sections.drawing("entropy", report.plots),
        _entropy(summary),
        "## Coverage by class",
        _coverage(summary),
        "## Cost",
        sections.cost(report.cost),
    ]


def drawings(report: TransferSetReport) -> list[Drawing]:
    """Return the plots."""
    return [plot_entropy(report.summary.entropy, classes=len(report.summary.classes))]


def _entropy(summary: TransferSetSummary) -> str:
    return words.table(
        ("T", "mean (nats)", "5 %", "25 %", "median", "75 %", "95 %"),
        (
            (
                f"{one.temperature:g}",
                f"{one.mean_nats:.4f}",
                f"{one.p05_nats:.4f}",
                f"{one.p25_nats:.4f}",
                f"{one.median_nats:.4f}",
                f"{one.p75_nats:.4f}",
                f"{one.p95_nats:.4f}",
            )
            for one in summary.entropy
        ),
    )


def _coverage(summary: TransferSetSummary) -> str:
    """Return rows a class; of many classes those of which the teacher names the fewest rows."""
    classes = list(summary.classes)
    note = ""
    if len(classes) > sections.MOST_CLASSES:
        classes = sorted(classes, key=lambda one: one.predicted)[: sections.MOST_CLASSES]
        note = (
            f"\n\nThe {sections.MOST_CLASSES} of {len(summary.classes)} classes that the teacher names least "
            "often. The JSON has all."
        )
    rows = ((words.cell(one.name), f"{one.labelled:,}", f"{one.predicted:,}") for one in classes)
    return words.table(("class", "rows with this label", "rows the teacher names it"), rows) + note
