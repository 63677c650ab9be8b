"""A small linear example in which distillation works (the distillation walk-through).

Logistic regression on cubic features learns P(y = 1 | x) = 0.5 + 0.4 sin x from 10 to 45 examples, once from
the labels, once from a teacher of a better class (which knows of the sine), 15 trials a size. No job: it is
computed in this process, in seconds. The same in both forms.
"""

from experiments.experiment import Computation, Experiment, Form, Outcomes, Step
from experiments.result import Chart, Figure, Finding, Published, Series, Table

TRIALS = 15
COMPUTED = "trials"


def steps(_form: Form) -> list[Step]:
    """Return the one computation."""
    return [Computation(COMPUTED, "experiments.linear_trials")]


def summarise(outcomes: Outcomes) -> Finding:
    """Compare the log loss on held-out examples at every size."""
    computed = outcomes.computed[COMPUTED]
    sizes = computed["examples"]
    models = ("student", "teacher", "distilled")
    below = [d < s for s, d in zip(computed["student.test"], computed["distilled.test"], strict=True)]
    reached = all(below)
    figures = tuple(
        Figure(label=f"{model}, mean over sizes", unit="nats", values=computed[f"{model}.test"])
        for model in models
    )
    return Finding(
        figures=figures,
        headline=f"distilled below hard at {sum(below)} of {len(below)} sizes "
        f"({figures[0].mean:.2f} → {figures[2].mean:.2f} nats on average)",
        reached=reached,
        verdict=f"The distilled student's log loss is below the hard one's at {sum(below)} of {len(below)} "
        "sizes.",
        chart=Chart(
            title="Log loss against the number of examples",
            x_label="training examples",
            y_label="log loss (nats an example)",
            series=tuple(
                Series(
                    name=f"{'hard labels' if model == 'student' else model}, {split}",
                    x=sizes,
                    y=computed[f"{model}.{split}"],
                )
                for split in ("test", "train")
                for model in models
            ),
        ),
        tables=(
            Table(
                title="Log loss on held-out examples, mean over trials ± standard error",
                columns=("examples", "hard labels", "teacher", "distilled"),
                rows=tuple(
                    (
                        f"{size:.0f}",
                        *(
                            f"{computed[f'{model}.test'][i]:.3f} ± {computed[f'{model}.error'][i]:.3f}"
                            for model in models
                        ),
                    )
                    for i, size in enumerate(sizes)
                ),
            ),
        ),
    )


EXPERIMENT = Experiment(
    name="linear",
    title="Why it can work at all: a linear example",
    source="the distillation walk-through",
    published=(
        Published(
            label="a plot of log loss against 10 to 45 examples, 15 trials", figure="distilled below hard"
        ),
    ),
    to_reach="the same plot, distilled below hard at every size",
    reduced="nothing: seconds in either form",
    minutes=(1, 1),
    steps=steps,
    summarise=summarise,
)
