"""Specialists for confusable classes (the paper's section 5), on two sets of many classes.

Tiny ImageNet at 32 pixels (its first 100 classes) with a residual net (reduced: a small convolutional one),
Omniglot (242 characters) with a convolutional net. Specialists start from the generalist and train all their
weights: with frozen features they gain nothing. Estimated: 3 + 5 minutes on Tiny ImageNet, 1 + 4 on Omniglot.
"""

from experiments.experiment import Experiment, Form, JobStep, Outcomes, Step
from experiments.result import Chart, Figure, Finding, Published, Series, Table
from experiments.teachers import photographs_budget
from shared.contracts.architectures import Architecture, Cnn, ResNet
from shared.contracts.reports import SpecialistsReport
from shared.contracts.specs import SpecialistPlan, SpecialistsSpec, SpecialistTraining, TeacherSpec
from shared.contracts.training import Budget, Regularisation, TransferSetSpec

SETS = ("tiny-imagenet", "omniglot")
DATASETS = {"tiny-imagenet": "tiny-imagenet-32-100", "omniglot": "omniglot"}
WORDS = {"tiny-imagenet": "Tiny ImageNet, 100 classes", "omniglot": "Omniglot, 242 classes"}
OMNIGLOT_NET = Cnn(channels=(32, 64, 64), hidden_units=256)
TINY_NET = Cnn(channels=(16, 32, 64), hidden_units=256)
"""Of the reduced form: four times as quick as a ResNet-8 on a CPU."""
JFT_BY_COVERAGE = (0.0, 3.4, 7.4, 8.8, 10.5, 11.1, 11.3, 12.8, 13.6, 16.6, 14.1)
"""Relative change in per cent (table 4); the last is of 10 or more."""


def network(form: Form, of: str) -> Architecture:
    """Return the network of generalist and specialists on a set."""
    if of == "omniglot":
        return OMNIGLOT_NET
    return TINY_NET if form.reduced else ResNet(architecture="resnet8")


def regularisation(form: Form, of: str) -> Regularisation:
    """Return the rule of the generalist on a set; residual nets do without dropout."""
    if of == "omniglot":
        return Regularisation(hidden_dropout=0.5, jitter_px=2)
    return Regularisation(jitter_px=2 if form.reduced else 4, flip=True)


def tiny_budget(form: Form, full: int, reduced: int) -> Budget:
    """Return the budget of a net on Tiny ImageNet: the usual recipe for a ResNet, Adam for the small net."""
    if form.reduced:
        return Budget(epochs=reduced, batch_size=128, precision="bfloat16", keep="last")
    return photographs_budget(full)


def generalist(form: Form, of: str) -> JobStep:
    """Return the generalist on a set: one net over all classes."""
    budgets = {
        "tiny-imagenet": tiny_budget(form, 100, 10),
        "omniglot": Budget(epochs=form(200, 60), batch_size=128, precision="bfloat16"),
    }
    spec = TeacherSpec(
        name=form.named("generalist", of),
        dataset=DATASETS[of],
        architecture=network(form, of),
        regularisation=regularisation(form, of),
        budget=budgets[of],
    )
    return JobStep(f"{of}-generalist", spec)


def ensemble(form: Form, of: str) -> JobStep:
    """Return the specialists for it: several ensembles that differ in their seeds."""
    before = generalist(form, of)
    plans = {
        "tiny-imagenet": SpecialistPlan(sets=form(12, 6), size=20),
        "omniglot": SpecialistPlan(sets=form(24, 12), size=30),
    }
    budgets = {
        "tiny-imagenet": Budget(epochs=form(20, 6), learning_rate=5e-4, precision="bfloat16"),
        "omniglot": Budget(epochs=form(60, 30), learning_rate=3e-4, precision="bfloat16"),
    }
    rule = regularisation(form, of)
    spec = SpecialistsSpec(
        name=form.named("specialists", of),
        generalist=before.spec.name,
        dataset=DATASETS[of],
        plan=plans[of],
        # Shifts and mirrors come with the views that the generalist was asked about.
        transfer_set=TransferSetSpec(views=form(20, 8), jitter_px=rule.jitter_px, flip=rule.flip),
        training=SpecialistTraining(
            budget=budgets[of],
            regularisation=rule.model_copy(update={"jitter_px": 0, "flip": False}),
        ),
        seeds=form.seeds,
    )
    return JobStep(f"{of}-specialists", spec, after=(before.name,))


def steps(form: Form) -> list[Step]:
    """Return generalist and specialists for both sets."""
    return [step(form, of) for of in SETS for step in (generalist, ensemble)]


def gain(outcomes: Outcomes, of: str) -> tuple[Figure, Figure, SpecialistsReport]:
    """Return the generalist's accuracy, that of generalist and specialists together, and the report."""
    report = outcomes.report(f"{of}-specialists", SpecialistsReport)
    seeds = report.comparison.seeds
    alone = Figure(
        label=f"{WORDS[of]}: generalist",
        unit="%",
        values=(100 * report.generalist.accuracy,),
    )
    together = Figure(
        label=f"{WORDS[of]}: generalist and specialists",
        unit="%",
        values=tuple(100 * one.taught_accuracy for one in seeds),
        seeds=tuple(one.seed for one in seeds),
    )
    return alone, together, report


def summarise(outcomes: Outcomes) -> Finding:
    """Give the gain on both sets, and the paper's table by number of covering specialists."""
    figures: list[Figure] = []
    tables: list[Table] = []
    series: list[Series] = []
    said: list[str] = []
    measured = []
    for of in SETS:
        alone, together, report = gain(outcomes, of)
        figures += [alone, together]
        points = together.mean - alone.mean
        low, high = (100 * bound for bound in report.comparison.interval)
        measured.append(low > 0)
        said.append(
            f"{WORDS[of]}: {alone.mean:.2f} → {together.mean:.2f} % "
            f"({100 * points / alone.mean:+.1f} % relative)"
        )
        tables.append(
            Table(
                title=f"{WORDS[of]}, by number of specialists that cover the true class",
                columns=("covering", "test images", "change in correct", "relative change"),
                rows=tuple(
                    (
                        f"{row.covering}{' or more' if row.or_more else ''}",
                        f"{row.examples:,}",
                        f"{row.change:+.1f}",
                        "" if row.relative_change is None else f"{100 * row.relative_change:+.1f} %",
                    )
                    for row in report.coverage
                ),
            )
        )
        tables.append(
            Table(
                title=f"{WORDS[of]}, by seed",
                columns=("seed", "generalist", "with specialists", "gain (points)"),
                rows=(
                    *(
                        (
                            str(one.seed),
                            f"{one.untaught_accuracy:.2%}",
                            f"{one.taught_accuracy:.2%}",
                            f"{100 * (one.taught_accuracy - one.untaught_accuracy):+.2f}",
                        )
                        for one in report.comparison.seeds
                    ),
                    ("95 % interval", "", "", f"{low:+.2f} to {high:+.2f}"),
                ),
            )
        )
        known = [
            (row.covering, row.relative_change) for row in report.coverage if row.relative_change is not None
        ]
        series.append(
            Series(
                name=WORDS[of],
                x=tuple(float(covering) for covering, _ in known),
                y=tuple(100 * change for _, change in known),
            )
        )
    series.append(Series(name="published, JFT", x=tuple(map(float, range(11))), y=JFT_BY_COVERAGE))
    return Finding(
        figures=tuple(figures),
        headline="; ".join(said),
        reached=any(measured),
        verdict=f"{'; '.join(said)}. The 95 % interval of the gain lies above 0 on "
        f"{' and '.join(WORDS[of] for of, one in zip(SETS, measured, strict=True) if one) or 'neither set'}.",
        chart=Chart(
            title="Change in correctly classified test images by coverage",
            x_label="specialists that cover the true class (the last: or more)",
            y_label="relative change (%)",
            series=tuple(series),
        ),
        tables=tuple(tables),
    )


EXPERIMENT = Experiment(
    name="specialists",
    title="Specialists for confusable classes",
    source="arXiv:1503.02531, tables 3 and 4",
    published=(
        Published(
            label="JFT top-1: generalist, with 61 specialists", figure="25.0 %, 26.1 % (+4.4 % relative)"
        ),
        Published(
            label="relative change by covering specialists 0, 1, … 10 or more",
            figure="0.0, 3.4, 7.4, 8.8, 10.5, 11.1, 11.3, 12.8, 13.6, 16.6, 14.1 %",
        ),
    ),
    to_reach="a measured gain on a many-class set, and the table by coverage",
    reduced="on Tiny ImageNet a small convolutional net for the ResNet-8, 10 epochs for 100, and 6 "
    "specialists of 6 epochs for 12 of 20; on Omniglot 60 epochs for 200, and 12 specialists of 30 epochs "
    "for 24 of 60",
    minutes=(90, 13),
    steps=steps,
    summarise=summarise,
)
