"""Digits taught by images of 7 and 8 alone (section 3). Estimated: 3 minutes beside the shared teacher.

Biases come from the mean softmax mass on the validation split, matched to its class shares.
"""

from experiments import recipes, teachers
from experiments.experiment import Experiment, Form, Outcomes, Step
from experiments.mnist_omit_3 import before_repair
from experiments.result import Figure, Finding, Published
from shared.contracts.evaluation import NetFigures
from shared.contracts.training import BiasRepair, TransferSetSpec

CLASSES = ("7", "8")
BAR = 13.2
"""Per cent errors."""
STRETCH = 7.5


def steps(form: Form) -> list[Step]:
    """Return the paper's form, and the form of several views an image."""
    several = recipes.views(form(40, 20))
    repair = BiasRepair(source="validation")
    return [
        teachers.mnist(form),
        recipes.mnist_student(
            form,
            "mnist-only-7-8",
            "paper",
            transfer_set=TransferSetSpec(only=CLASSES),
            budget=recipes.digits_budget(form(200, 60)),
            bias_repair=repair,
        ),
        recipes.mnist_student(
            form,
            "mnist-only-7-8",
            "views",
            transfer_set=several.model_copy(update={"only": CLASSES}),
            budget=recipes.digits_budget(form(400, 96)),
            bias_repair=repair,
        ),
    ]


def _shares(label: str, nets: tuple[NetFigures, ...], published: float | None = None) -> Figure:
    return Figure(
        label=label,
        unit="% errors",
        values=tuple(100 * (1 - net.accuracy) for net in nets),
        seeds=tuple(net.seed for net in nets),
        published=published,
    )


def summarise(outcomes: Outcomes) -> Finding:
    """Compare the shares of errors on all ten digits, before and after the repair."""
    figures = {
        "paper before": _shares("images as they are, before repair", before_repair(outcomes, "paper"), 47.3),
        "paper": _shares("images as they are, biases repaired", outcomes.nets("paper", "taught"), 13.2),
        "views before": _shares("several views an image, before repair", before_repair(outcomes, "views")),
        "views": _shares("several views an image, biases repaired", outcomes.nets("views", "taught")),
        "untaught": _shares("untaught, biases repaired alike", outcomes.nets("paper", "untaught")),
    }
    own, several = figures["paper"], figures["views"]
    return Finding(
        figures=tuple(figures.values()),
        headline=f"{figures['paper before'].mean:.1f} % → {own.words}; several views {several.words}",
        reached=own.mean <= BAR,
        verdict=f"{own.words} in the paper's own form against {BAR} %: "
        f"{'reached' if own.mean <= BAR else 'not reached'}. Several views: {several.words}; the stretch of "
        f"{STRETCH} % is {'reached' if min(own.mean, several.mean) <= STRETCH else 'not reached'}.",
    )


EXPERIMENT = Experiment(
    name="mnist-only-7-8",
    title="All digits, taught by images of 7 and 8 alone",
    source="arXiv:1503.02531, section 3",
    published=(
        Published(label="errors", figure="47.3 %"),
        Published(label="with the biases repaired (on the test set)", figure="13.2 %"),
    ),
    to_reach=f"≤ {BAR} % errors with the biases repaired",
    reduced="the shared teacher's reduced form, students 60 epochs for 200 and 96 for 400, 20 views for 40",
    minutes=(20, 4),
    steps=steps,
    summarise=summarise,
)
