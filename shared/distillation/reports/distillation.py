"""The page and the plots of a job of kind `distillation`."""

from shared.contracts.reports import DistillationReport, RepairReport
from shared.distillation.plots import Drawing, plot_confusion, plot_curves, plot_reliability
from shared.distillation.reports import cascade, sections, succession, words


def page(report: DistillationReport) -> list[str]:
    """Return the sections of the page; the verdict comes first."""
    spec, comparison = report.spec, report.comparison
    nets = [
        ("teacher", report.teacher, report.teacher_parameters),
        ("untaught", report.untaught, report.student_parameters),
        ("distilled", report.taught, report.student_parameters),
    ]
    return [
        f"# Student {report.student_version}",
        sections.verdict_sentence(comparison),
        *sections.warnings(report),
        words.facts(
            sections.job(report),
            ("Teacher", f"{spec.teacher}, `{report.teacher_digest[:12]}`"),
            ("Dataset", f"{spec.dataset}, `{report.dataset_digest[:12]}`"),
            (
                "Transfer set",
                f"`{report.transfer_set_digest[:12]}`, {words.transfer_set(spec.transfer_set)}",
            ),
            ("Student", words.network(spec.student.network)),
            ("Regularisation", words.regularisation(spec.student.regularisation)),
            ("Objective", words.objective(spec.objective)),
            ("Budget", words.budget(spec.budget)),
        ),
        *(succession.section(report.succession) if report.succession is not None else ()),
        "## On the test split, at T = 1",
        sections.evaluations(nets),
        f"The distilled student names the teacher's class on {report.agreement:.2%} of the test images.",
        *_pair(report),
        *_findings(report),
        *sections.drawing("reliability", report.plots),
        "## The verdict, seed by seed",
        sections.seeds(comparison),
        sections.method(comparison),
        *(_repair(report, report.repair) if report.repair is not None else ()),
        "## Errors by class",
        sections.errors_by_class([(name, evaluation) for name, evaluation, _ in nets]),
        "## Confusions of the distilled student",
        sections.confusions(report.taught),
        *sections.drawing("confusion", report.plots),
        "## Size and latency",
        _size(report),
        sections.latencies(report.latency, report.teacher_latency_ms),
        *sections.graphs(report.graphs),
        *cascade.section(report.cascade, report.plots),
        "## Training",
        *sections.training(report.curves, report.plots),
        "## Cost",
        sections.cost(report.cost),
        *sections.asked(report.asked),
    ]


def drawings(report: DistillationReport) -> list[Drawing]:
    """Return the plots."""
    return [
        plot_reliability(
            [("teacher", report.teacher), ("untaught", report.untaught), ("distilled", report.taught)]
        ),
        plot_confusion(list(report.taught.errors_by_class), report.taught.confusion),
        *cascade.drawings(report.cascade),
        plot_curves(report.curves),
    ]


def _pair(report: DistillationReport) -> list[str]:
    pair = report.pair
    if pair is None:
        return []
    known = ""
    if pair.untaught_accuracy is not None:
        known = (
            f", an untaught net of this kind is known to reach {pair.untaught_accuracy:.2%} "
            f"(job `{pair.untaught_job}`)"
        )
    return [
        f"Before training the teacher was right on {pair.teacher_accuracy:.2%} of {pair.images:,} validation "
        f"images{known}."
    ]


def _findings(report: DistillationReport) -> list[str]:
    if not report.findings:
        return []
    return ["## The teacher, checked before training", sections.findings(report.findings)]


def _repair(report: DistillationReport, repair: RepairReport) -> list[str]:
    after = {(net.arm, net.seed): net for net in report.nets}
    rows = []
    for net in repair.nets:
        found, classes = after[net.arm, net.seed], list(net.before.errors_by_class)
        largest = max(range(len(classes)), key=lambda place: abs(net.biases[place]))
        rows.append(
            (
                net.arm,
                str(net.seed),
                str(net.before.errors),
                str(found.errors),
                words.points(found.accuracy - net.before.accuracy),
                f"{words.cell(classes[largest])}: {net.biases[largest]:+.2f}",
            )
        )
    before = repair.comparison_before
    source = {
        "unlabelled": "training images, whose labels were not read",
        "validation": "validation images",
    }[repair.source]
    return [
        "## Class biases repaired",
        f"To each net's last layer its own biases were added, so that its mean softmax mass on "
        f"{repair.images:,} {source}, has the classes' shares. No test label was used. Before, taught minus "
        f"untaught accuracy was {words.points(before.gain)} points ({before.verdict}).",
        words.table(("arm", "seed", "errors before", "after", "gain (points)", "largest bias"), rows),
    ]


def _size(report: DistillationReport) -> str:
    stored = f", {words.size(report.student_bytes)} as ONNX" if report.student_bytes is not None else ""
    student = f"{report.student_parameters:,} parameters{stored}; the teacher"
    if report.teacher_parameters is None:
        return f"{student}'s are on a server and cannot be counted."
    share = report.teacher_parameters / max(report.student_parameters, 1)
    return f"{student} has {report.teacher_parameters:,}, {share:.1f} times as many."
