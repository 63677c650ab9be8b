"""The page and the plots of jobs whose nets teach themselves or each other."""

from shared.contracts.reports import CodistillationReport, MutualReport, PeerReport, SelfDistillationReport
from shared.contracts.training import Objective
from shared.distillation.plots import Drawing, plot_confusion, plot_curves, plot_reliability
from shared.distillation.reports import sections, words


def page(report: PeerReport) -> list[str]:
    """Return the sections of the page; the verdict comes first."""
    nets = [
        ("untaught", report.untaught, report.parameters),
        ("taught", report.taught, report.parameters),
    ]
    return [
        f"# Student {report.student_version}",
        sections.verdict_sentence(report.comparison),
        *sections.warnings(report),
        words.facts(sections.job(report), *_facts(report)),
        "## On the test split, at T = 1",
        sections.evaluations(nets),
        *sections.drawing("reliability", report.plots),
        "## The verdict, seed by seed",
        sections.seeds(report.comparison),
        sections.method(report.comparison),
        "## Every net",
        _nets(report),
        *_exchanges(report),
        "## Errors by class",
        sections.errors_by_class([(name, evaluation) for name, evaluation, _ in nets]),
        "## Confusions of the student",
        sections.confusions(report.taught),
        *sections.drawing("confusion", report.plots),
        "## Size and latency",
        f"{report.parameters:,} parameters, {report.onnx_bytes / 1e6:.2f} MB as ONNX.",
        sections.latencies(report.latency, None),
        *sections.graphs(report.graphs),
        "## Training",
        *sections.training(report.curves, report.plots),
        "## Cost",
        sections.cost(report.cost),
    ]


def drawings(report: PeerReport) -> list[Drawing]:
    """Return the plots."""
    return [
        plot_reliability([("untaught", report.untaught), ("taught", report.taught)]),
        plot_confusion(list(report.taught.errors_by_class), report.taught.confusion),
        plot_curves(report.curves),
    ]


def _facts(report: PeerReport) -> list[tuple[str, str]]:
    assert isinstance(report, SelfDistillationReport | MutualReport | CodistillationReport)
    spec = report.spec
    facts = [
        ("Dataset", f"{spec.dataset}, `{report.dataset_digest[:12]}`"),
        ("Network", words.network(spec.network)),
        ("Regularisation", words.regularisation(spec.regularisation)),
        ("Budget", words.budget(spec.budget)),
        ("Seeds", ", ".join(map(str, spec.seeds))),
    ]
    if isinstance(report, SelfDistillationReport):
        order = report.spec
        return [
            *facts,
            ("Generations", f"{order.generations} after the untaught one, each taught by the one before"),
            ("Transfer set", words.transfer_set(order.transfer_set)),
            ("Objective", words.objective(order.objective)),
        ]
    peers = report.spec
    objective = Objective(
        temperature=peers.temperature, soft_weight=peers.soft_weight, hard_weight=peers.hard_weight
    )
    facts += [
        ("Members", f"{peers.members} of each seed"),
        ("Objective", words.objective(objective)),
    ]
    if isinstance(report, CodistillationReport):
        every, alone = report.spec.exchange_epochs, report.spec.burn_in_epochs
        facts.append(("Exchange", f"every {every} epoch(s), after {alone} on hard labels alone"))
    return facts


def _nets(report: PeerReport) -> str:
    return words.table(
        ("net", "seed", "validation", "test", "errors", "NLL (nats)", "ECE"),
        (
            (
                words.cell(net.arm),
                f"{net.seed}, published" if (net.arm, net.seed) == ("taught", report.seed) else str(net.seed),
                f"{net.validation_accuracy:.2%}" if net.validation_accuracy is not None else "",
                f"{net.accuracy:.2%}",
                str(net.errors),
                f"{net.nll:.4f}",
                f"{net.ece:.4f}",
            )
            for net in report.nets
        ),
    )


def _exchanges(report: PeerReport) -> list[str]:
    if not isinstance(report, CodistillationReport):
        return []
    return [
        "## Copies exchanged",
        "Nobody waits: a member takes the newest copies that there are. An age below 0 says that the others "
        f"were ahead. The arm `taught` is member {len(report.members) - 1}.",
        words.table(
            ("member", "seed", "looked", "found none", "copies taken", "mean age (epochs)"),
            (
                (
                    str(one.member),
                    str(one.seed),
                    str(one.exchanges),
                    str(one.found_none),
                    str(one.copies),
                    "" if one.mean_age_epochs is None else f"{one.mean_age_epochs:+.1f}",
                )
                for one in report.exchanges
            ),
        ),
    ]
