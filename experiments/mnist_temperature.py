"""Which temperature suits which student (the paper's section 3).

One sweep a width over the same temperatures; nets of 30 units are cheap and noisy, so they get three times
the seeds. Estimated: 4 minutes beside the shared teacher.
"""

import statistics

from experiments import recipes, teachers
from experiments.experiment import Experiment, Form, JobStep, Outcomes
from experiments.paired import paired_interval
from experiments.result import Chart, Figure, Finding, Published, Series, Table
from shared.contracts.architectures import Mlp
from shared.contracts.reports import SweepReport, SweepTrial, SweptNetwork
from shared.contracts.specs import FloatRange, SweepSpec

TEMPERATURES = (1.0, 2.0, 2.5, 3.0, 4.0, 8.0, 12.0, 20.0, 40.0)
WIDE, NARROW = "wide", "narrow"
UNITS = {WIDE: 300, NARROW: 30}
MIDDLE = (2.5, 3.0, 4.0)
ALIKE = 0.1
"""Percentage points, 10 errors of 10,000: what two nets of one recipe differ by."""


def steps(form: Form) -> list[JobStep]:
    """Return the teacher and a sweep for each width."""
    teacher = teachers.mnist(form)
    more = tuple(seed + 1000 * repeat for repeat in range(3) for seed in form.seeds)
    return [teacher] + [
        JobStep(
            name,
            SweepSpec(
                name=form.named("mnist-temperature", name),
                teacher=teacher.spec.name,
                dataset="mnist",
                networks=(Mlp(hidden_units=(UNITS[name], UNITS[name])),),
                temperatures=FloatRange(values=TEMPERATURES),
                trials=len(TEMPERATURES),
                budget=recipes.digits_budget(form(60, 20)),
                seeds=seeds,
            ),
            after=(teacher.name,),
        )
        for name, seeds in ((WIDE, form.seeds), (NARROW, more))
    ]


def summarise(outcomes: Outcomes) -> Finding:
    """Test both statements on the test accuracies of the nets, paired by seed."""
    swept = {name: outcomes.report(name, SweepReport) for name in (WIDE, NARROW)}
    by_temperature = {name: _accuracies(report.networks[0]) for name, report in swept.items()}
    wide, narrow = by_temperature[WIDE], by_temperature[NARROW]
    # Statement 1: above 8 no two temperatures differ by what would be worth a choice.
    above = [t for t in TEMPERATURES if t > 8]
    means = {t: statistics.fmean(wide[t]) for t in above}
    apart = max(means.values()) - min(means.values())
    alike = apart <= ALIKE
    # Statement 2: the best of 2.5 to 4 (chosen on validation) beats what is below and above it.
    best = max(MIDDLE, key=lambda t: _validation(swept[NARROW].networks[0], t))
    gains = {t: paired_interval(narrow[best], narrow[t]) for t in (1.0, *above)}
    better = all(low > 0 for _, low, _ in gains.values())
    gained = "; ".join(
        f"over T = {t:g} {gain:+.2f} points ({low:+.2f} to {high:+.2f})"
        for t, (gain, low, high) in gains.items()
    )
    return Finding(
        figures=tuple(
            Figure(
                label=f"{UNITS[name]} units, T = {t:g}",
                unit="%",
                values=by_temperature[name][t],
                seeds=swept[name].spec.seeds,
            )
            for name in (WIDE, NARROW)
            for t in TEMPERATURES
        ),
        headline=f"{UNITS[WIDE]} units: T > 8 within {apart:.2f} points; {UNITS[NARROW]} units: "
        f"T = {best:g} best of 2.5 to 4, "
        f"{'better' if better else 'not clearly better'} than lower and higher",
        reached=alike and better,
        verdict=f"{UNITS[WIDE]} units: mean accuracies at T > 8 lie within {apart:.2f} points "
        f"({'alike' if alike else 'not alike'}, at most {ALIKE}). {UNITS[NARROW]} units: T = {best:g}, "
        f"chosen on validation among 2.5 to 4, gains {gained}, 95 % intervals over paired seeds: "
        f"{'better than lower and higher' if better else 'not shown'}.",
        chart=Chart(
            title="Test accuracy against temperature",
            x_label="temperature T",
            y_label="test accuracy (%)",
            log_x=True,
            series=tuple(
                Series(
                    name=f"{UNITS[name]} units a layer",
                    x=TEMPERATURES,
                    y=tuple(statistics.fmean(by_temperature[name][t]) for t in TEMPERATURES),
                    spread=tuple(statistics.stdev(by_temperature[name][t]) for t in TEMPERATURES),
                )
                for name in (WIDE, NARROW)
            ),
            levels=tuple(
                (
                    f"{UNITS[name]} units, untaught",
                    100 * statistics.fmean(swept[name].networks[0].untaught_test_accuracies),
                )
                for name in (WIDE, NARROW)
            ),
        ),
        tables=(
            Table(
                title="Errors of 10,000, mean over seeds",
                columns=("T", *(f"{UNITS[name]} units" for name in (WIDE, NARROW))),
                rows=tuple(
                    (
                        f"{t:g}",
                        *(
                            f"{100 * (100 - statistics.fmean(by_temperature[name][t])):.0f}"
                            for name in (WIDE, NARROW)
                        ),
                    )
                    for t in TEMPERATURES
                ),
            ),
        ),
    )


def _trial(network: SweptNetwork, temperature: float) -> SweepTrial:
    return next(trial for trial in network.trials if trial.temperature == temperature)


def _accuracies(network: SweptNetwork) -> dict[float, tuple[float, ...]]:
    return {t: tuple(100 * one for one in _trial(network, t).test_accuracies) for t in TEMPERATURES}


def _validation(network: SweptNetwork, temperature: float) -> float:
    return _trial(network, temperature).validation_accuracy


EXPERIMENT = Experiment(
    name="mnist-temperature",
    title="Which temperature suits which student",
    source="arXiv:1503.02531, section 3",
    published=(
        Published(label="≥ 300 units a layer", figure='all T > 8 "fairly similar"'),
        Published(label="30 units a layer", figure='T 2.5 to 4 "significantly better than higher or lower"'),
    ),
    to_reach="the same two statements, tested",
    reduced="the shared teacher's reduced form, students 20 epochs for 60",
    minutes=(30, 4),
    steps=steps,
    summarise=summarise,
)
