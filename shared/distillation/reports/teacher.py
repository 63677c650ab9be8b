"""The page and the plots of a job of kind `teacher`."""

from shared.contracts.reports import TeacherReport
from shared.distillation.plots import Drawing, plot_confusion, plot_curves, plot_reliability
from shared.distillation.reports import sections, words

_BYTES = 4
"""Of a parameter as it is stored."""


def page(report: TeacherReport) -> list[str]:
    """Return the sections of the page."""
    spec, evaluation = report.spec, report.evaluation
    merged = f"{len(spec.seeds)} nets, merged by the {spec.merge} mean" if len(spec.seeds) > 1 else "one net"
    members = []
    if len(report.members) > 1:
        members = [
            "## Each net alone",
            words.table(
                ("seed", "errors", "accuracy", "NLL (nats)", "ECE"),
                (
                    (
                        str(net.seed),
                        str(net.errors),
                        f"{net.accuracy:.2%}",
                        f"{net.nll:.4f}",
                        f"{net.ece:.4f}",
                    )
                    for net in report.members
                ),
            ),
        ]
    return [
        f"# Teacher {spec.name}",
        *sections.warnings(report),
        words.facts(
            sections.job(report),
            ("Teacher", f"`{report.teacher_digest[:12]}`, {merged}"),
            ("Dataset", f"{spec.dataset}, `{report.dataset_digest[:12]}`"),
            ("Network", words.network(spec.architecture)),
            ("Regularisation", words.regularisation(spec.regularisation)),
            ("Budget", words.budget(spec.budget)),
        ),
        "## On the test split",
        sections.evaluations([("teacher", evaluation, report.parameters)]),
        *members,
        *sections.drawing("reliability", report.plots),
        "## Errors by class",
        sections.errors_by_class([("teacher", evaluation)]),
        "## Confusions",
        sections.confusions(evaluation),
        *sections.drawing("confusion", report.plots),
        "## Size",
        _size(report),
        "## Training",
        *sections.training(report.curves, report.plots),
        "## Cost",
        sections.cost(report.cost),
    ]


def _size(report: TeacherReport) -> str:
    nets = len(report.spec.seeds)
    each = f", {report.parameters // nets:,} in each of {nets} nets" if nets > 1 else ""
    return (
        f"{report.parameters:,} parameters{each}; {words.size(report.parameters * _BYTES)} as float32, "
        "running statistics of batch normalisation not counted. Latency is not measured here: a teacher "
        "answers over HTTP, and the report of each distillation from it says how long one call took."
    )


def drawings(report: TeacherReport) -> list[Drawing]:
    """Return the plots."""
    evaluation = report.evaluation
    return [
        plot_reliability([("teacher", evaluation)]),
        plot_confusion(list(evaluation.errors_by_class), evaluation.confusion),
        plot_curves(report.curves),
    ]
