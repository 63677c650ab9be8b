"""Matching logits is the limit of soft targets at high temperature (the paper's section 2.1).

By gradient: computed numbers through the losses that train students. By result: students of one teacher, one
half taught by soft targets at T = 40, the other by logits. Estimated: 5 minutes beside the shared teacher.
"""

import statistics

from experiments import recipes, teachers
from experiments.experiment import Computation, Experiment, Form, Outcomes, Step, errors
from experiments.result import Chart, Finding, Published, Series, Table
from shared.contracts.training import Objective

HIGH = 40.0
GRADIENT = "gradient"
CLOSE = 0.05
"""Largest relative difference of the gradients at the highest temperature that counts as the limit."""


def steps(form: Form) -> list[Step]:
    """Return the computation, and the two students."""
    budget = recipes.digits_budget(form(60, 20))
    return [
        Computation(GRADIENT, "experiments.gradients"),
        teachers.mnist(form),
        recipes.mnist_student(
            form, "logit-matching", "soft", objective=Objective(temperature=HIGH), budget=budget
        ),
        recipes.mnist_student(
            form,
            "logit-matching",
            "logits",
            objective=Objective(soft_weight=0.0, hard_weight=0.0, logit_weight=1.0),
            budget=budget,
        ),
    ]


def summarise(outcomes: Outcomes) -> Finding:
    """Say how the gradients come together as T grows, and whether the two students differ."""
    computed = outcomes.computed[GRADIENT]
    temperatures = computed["temperature"]
    kinds = tuple(name for name in computed if name != "temperature")
    last = max(computed[kind][-1] for kind in kinds)
    soft = errors(f"soft targets at T = {HIGH:g}", outcomes.nets("soft", "taught"))
    logits = errors("logits matched", outcomes.nets("logits", "taught"))
    differences = [a - b for a, b in zip(soft.values, logits.values, strict=True)]
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    # Two nets of one recipe differ by 5 to 9 errors, whatever they are taught by.
    by_result = abs(mean) <= 9
    by_gradient = last <= CLOSE
    return Finding(
        figures=(soft, logits, errors("untaught", outcomes.nets("soft", "untaught"))),
        headline=f"gradients differ by {last:.1%} at T = {temperatures[-1]:g}; "
        f"{soft.words} against {logits.words}",
        reached=by_gradient and by_result,
        verdict=f"By gradient: the relative difference falls to {last:.1%} at T = {temperatures[-1]:g}. "
        f"By result: soft minus logits is {mean:+.1f} ± {deviation:.1f} errors over {len(differences)} "
        f"paired seeds, {'within' if by_result else 'beyond'} the 5 to 9 by which two nets of one recipe "
        "differ.",
        chart=Chart(
            title="Gradient of soft targets against that of matched logits",
            x_label="temperature T",
            y_label="relative difference of the gradients",
            log_x=True,
            log_y=True,
            series=tuple(Series(name=kind, x=temperatures, y=computed[kind]) for kind in kinds),
        ),
        tables=(
            Table(
                title="Relative difference of the gradients",
                columns=("T", *kinds),
                rows=tuple(
                    (f"{t:g}", *(f"{computed[kind][i]:.4f}" for kind in kinds))
                    for i, t in enumerate(temperatures)
                ),
            ),
        ),
    )


EXPERIMENT = Experiment(
    name="logit-matching",
    title="Matching logits is the limit at high temperature",
    source="arXiv:1503.02531, section 2.1; summary notes; Buciluă et al. 2006",
    published=(Published(label="gradient as T grows", figure="(z - v) / (N T²)"),),
    to_reach="shown by gradient (relative difference ≤ 5 % at the highest T) and by result (errors within "
    "the noise between seeds)",
    reduced="the shared teacher's reduced form, students 20 epochs for 60",
    minutes=(30, 5),
    steps=steps,
    summarise=summarise,
)
