"""The page and the plots of a job of kind `sweep`."""

import statistics
from collections.abc import Callable, Sequence

from shared.contracts.architectures import Architecture, Mlp
from shared.contracts.reports import SweepReport, SweepTrial, SweptNetwork
from shared.contracts.specs import FloatRange, SweepConstraint
from shared.distillation.plots import Drawing, Line, plot_curves, plot_lines
from shared.distillation.reports import cascade, sections, words


def page(report: SweepReport) -> list[str]:
    """Return the sections of the page: what was chosen, the curves, then every trial."""
    spec = report.spec
    return [
        f"# Sweep {spec.name}",
        _answer(report),
        *sections.warnings(report),
        words.facts(
            sections.job(report),
            ("Student", f"`{report.student_version}`" if report.student_version else "none published"),
            ("Teacher", f"{spec.teacher}, `{report.teacher_digest[:12]}`"),
            ("Dataset", f"{spec.dataset}, `{report.dataset_digest[:12]}`"),
            (
                "Transfer set",
                f"`{report.transfer_set_digest[:12]}`, {words.transfer_set(spec.transfer_set)}",
            ),
            ("Temperatures", _range(spec.temperatures)),
            ("Soft weights", _range(spec.soft_weights)),
            ("Hard weights", _range(spec.hard_weights)),
            ("Sampler", spec.sampler),
            ("Seeds", ", ".join(map(str, spec.seeds))),
            ("Constraint", _constraint(spec.constraint)),
            ("Budget", words.budget(spec.budget)),
        ),
        "## Accuracy against temperature",
        "At each temperature the weights of the best validation accuracy; bars are one standard deviation "
        "over seeds. Dashed: the same net untaught.",
        *sections.drawing("temperature-validation", report.plots),
        *sections.drawing("temperature-test", report.plots),
        "## The networks, each at its best trial",
        _networks(report),
        f"The teacher ({_parameters(report)}) is right on "
        f"{report.teacher_validation_accuracy:.2%} of the validation images and on "
        f"{report.teacher.accuracy:.2%} of the test images. Latency is the median of one image in process, "
        "on the machine that exported.",
        *_chosen(report),
        "## Every trial",
        "Validation accuracy chooses; test accuracy was looked at once, after the last trial, and chooses "
        "nothing. Means over seeds, with one standard deviation.",
        *(part for one in report.networks for part in (f"### {network_name(one.network)}", _trials(one))),
        "## Cost",
        sections.cost(report.cost),
        *sections.asked(report.asked),
    ]


def _parameters(report: SweepReport) -> str:
    known = report.teacher_parameters
    return f"{known:,} parameters" if known is not None else "its parameters cannot be seen"


def drawings(report: SweepReport) -> list[Drawing]:
    """Return the plots."""
    curves = [plot_curves(report.curves)] if report.curves else []
    return [
        _against_temperature(
            report,
            "validation",
            lambda trial: trial.validation_accuracies,
            lambda one: one.untaught_validation_accuracies,
        ),
        _against_temperature(
            report, "test", lambda trial: trial.test_accuracies, lambda one: one.untaught_test_accuracies
        ),
        *cascade.drawings(report.cascade),
        *curves,
    ]


def at_each_temperature(trials: Sequence[SweepTrial]) -> list[SweepTrial]:
    """Return for each temperature, from low to high, the trial whose weights validate best.

    A temperature at which all diverged is left out.
    """
    best: dict[float, SweepTrial] = {}
    for trial in trials:
        if trial.diverged is not None:
            continue
        known = best.get(trial.temperature)
        if known is None or trial.validation_accuracy > known.validation_accuracy:
            best[trial.temperature] = trial
    return [best[temperature] for temperature in sorted(best)]


# --- parts -------------------------------------------------------------------------------------------------


def _answer(report: SweepReport) -> str:
    if report.chosen is None:
        return (
            f"**None of {len(report.networks)} network(s) keeps to the constraint** "
            f"({_constraint(report.spec.constraint)}): no student is published."
        )
    one = report.networks[report.chosen]
    trial = one.best_trial
    why = "the smallest that keeps to the constraint" if _constraint(report.spec.constraint) else "the best"
    sentence = (
        f"**{network_name(one.network)}** at T = {trial.temperature:g}, soft weight {trial.soft_weight:g}, "
        f"hard weight {trial.hard_weight:g} is {why}: {_spread(trial.validation_accuracies)} of the "
        f"validation images, {_spread(trial.test_accuracies)} of the test images."
    )
    assert report.comparison is not None, "a chosen network is compared"
    return f"{sentence}\n\n{sections.verdict_sentence(report.comparison)}"


def _networks(report: SweepReport) -> str:
    return words.table(
        (
            "network",
            "parameters",
            "T",
            "soft",
            "hard",
            "validation",
            "points below the teacher",
            "untaught validation",
            "test",
            "p50 (ms)",
            "keeps to the constraint",
        ),
        (
            (
                f"**{network_name(one.network)}**" if place == report.chosen else network_name(one.network),
                f"{one.parameters:,}",
                f"{one.best_trial.temperature:g}",
                f"{one.best_trial.soft_weight:g}",
                f"{one.best_trial.hard_weight:g}",
                _spread(one.best_trial.validation_accuracies),
                f"{100 * (report.teacher_validation_accuracy - one.best_trial.validation_accuracy):.2f}",
                _spread(one.untaught_validation_accuracies),
                _spread(one.best_trial.test_accuracies),
                f"{one.latency[0].p50_ms:.3f}",
                "yes" if one.satisfies else "no",
            )
            for place, one in enumerate(report.networks)
        ),
    )


def _chosen(report: SweepReport) -> list[str]:
    if report.chosen is None or report.taught is None or report.untaught is None or report.comparison is None:
        return []
    one = report.networks[report.chosen]
    return [
        "## The published student on the test split, at T = 1",
        sections.evaluations(
            [
                ("teacher", report.teacher, report.teacher_parameters),
                ("untaught", report.untaught, one.parameters),
                ("distilled", report.taught, one.parameters),
            ]
        ),
        f"It names the teacher's class on {report.agreement or 0.0:.2%} of the test images.",
        sections.seeds(report.comparison),
        sections.method(report.comparison),
        "## Its latency",
        sections.latencies(one.latency, None),
        *sections.graphs(one.graphs),
        *cascade.section(report.cascade, report.plots),
        "## Its training",
        *sections.training(report.curves, report.plots),
    ]


def _trials(one: SweptNetwork) -> str:
    rows = sorted(one.trials, key=lambda trial: (trial.temperature, trial.soft_weight, trial.hard_weight))
    return words.table(
        ("T", "soft", "hard", "validation", "test", "trial"),
        (
            (
                f"{trial.temperature:g}",
                f"{trial.soft_weight:g}",
                f"{trial.hard_weight:g}",
                _validation(trial),
                _spread(trial.test_accuracies) if trial.test_accuracies else "",
                f"{trial.number}, the best" if trial.number == one.best else str(trial.number),
            )
            for trial in rows
        ),
    )


def _validation(trial: SweepTrial) -> str:
    if trial.diverged is None:
        return _spread(trial.validation_accuracies)
    step, epoch = trial.diverged.step, trial.diverged.epoch
    return f"diverged in epoch {epoch}" if step is None else f"diverged at step {step} of epoch {epoch}"


def _against_temperature(
    report: SweepReport,
    split: str,
    of_trial: Callable[[SweepTrial], tuple[float, ...]],
    of_untaught: Callable[[SweptNetwork], tuple[float, ...]],
) -> Drawing:
    lines = []
    for place, one in enumerate(report.networks):
        trials = at_each_temperature(one.trials)
        temperatures = [trial.temperature for trial in trials]
        reached = [of_trial(trial) for trial in trials]
        lines.append(
            Line(
                network_name(one.network),
                temperatures,
                [100 * statistics.fmean(figures) for figures in reached],
                [100 * statistics.stdev(figures) for figures in reached],
                colour=place,
            )
        )
        level = 100 * statistics.fmean(of_untaught(one))
        ends = [temperatures[0], temperatures[-1]]
        lines.append(Line("", ends, [level, level], dashed=True, colour=place))
    return plot_lines(
        f"temperature-{split}",
        f"{split.capitalize()} accuracy against temperature",
        lines,
        x_label="temperature T",
        y_label=f"{split} accuracy (%)",
        log_x=True,
    )


def network_name(network: Architecture) -> str:
    """Return what the page calls a network."""
    if isinstance(network, Mlp):
        return f"mlp {'-'.join(map(str, network.hidden_units))}"
    return words.network(network)


def _spread(accuracies: Sequence[float]) -> str:
    return f"{statistics.fmean(accuracies):.2%} ± {100 * statistics.stdev(accuracies):.2f}"


def _range(given: FloatRange) -> str:
    if given.values is not None:
        return ", ".join(f"{value:g}" for value in given.values)
    return f"{given.low:g} to {given.high:g}{' (logarithmic)' if given.log else ''}"


def _constraint(asked: SweepConstraint) -> str:
    parts = []
    if asked.within_points is not None:
        parts.append(f"within {asked.within_points:g} points of the teacher's validation accuracy")
    if asked.p50_ms is not None:
        parts.append(f"{asked.p50_ms:g} ms at p50")
    return " and ".join(parts)
