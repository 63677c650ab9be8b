"""An ensemble on frames of spoken digits, distilled into one net of a member's size (the paper's table 1).

Estimated: ensemble 3 minutes, students 3 + 6.
"""

from experiments import teachers
from experiments.experiment import Experiment, Form, Outcomes, Step, accuracies
from experiments.few_labels import spoken_paper, spoken_student
from experiments.result import Figure, Finding, Published
from shared.contracts.training import Objective, TransferSetSpec

BAR = 86.0
"""Per cent of the ensemble's gain."""


def steps(form: Form) -> list[Step]:
    """Return the ensemble, the paper's student, and one taught longer on several views."""
    return [
        teachers.spoken(form),
        spoken_paper(form),
        spoken_student(
            form,
            "ensemble",
            "views",
            transfer_set=TransferSetSpec(views=form(40, 16), jitter_px=1),
            budget=teachers.spoken_budget(form(80, 32)),
            objective=Objective(temperature=teachers.SPOKEN_TEMPERATURE, soft_weight=1.0, hard_weight=0.0),
        ),
    ]


def summarise(outcomes: Outcomes) -> Finding:
    """Say which share of the ensemble's gain over one net the distilled net keeps."""
    report = outcomes.teacher(teachers.SPOKEN)
    members = accuracies("one member", report.members)
    together = Figure(
        label=f"ensemble of {len(report.members)}",
        unit="%",
        values=(100 * report.evaluation.accuracy,),
        published=61.1,
    )
    untaught = accuracies("one net, hard labels", outcomes.nets("paper", "untaught"), published=58.9)
    paper = accuracies("distilled, the paper's form", outcomes.nets("paper", "taught"), published=60.8)
    several = accuracies("distilled, several views", outcomes.nets("views", "taught"))
    # Two estimates of one thing, as a member is trained as the untaught twin is: the better counts.
    baseline = max(untaught.mean, members.mean)

    def kept(figure: Figure) -> float:
        return 100 * (figure.mean - baseline) / (together.mean - baseline)

    best = max(kept(paper), kept(several))
    return Finding(
        figures=(untaught, members, together, paper, several),
        headline=f"{baseline:.2f} → {together.mean:.2f} → {paper.mean:.2f} ({kept(paper):.0f} %), "
        f"several views {several.mean:.2f} ({kept(several):.0f} %)",
        reached=best >= BAR,
        verdict=f"Of the ensemble's {together.mean - baseline:.2f} points over the better single net the "
        f"paper's form keeps {kept(paper):.0f} %, several views {kept(several):.0f} %: "
        f"{BAR:.0f} % {'reached' if best >= BAR else 'not reached'}.",
    )


EXPERIMENT = Experiment(
    name="ensemble",
    title="An ensemble in one net of a member's size",
    source="arXiv:1503.02531, table 1",
    published=(
        Published(
            label="test frame accuracy: one net, ensemble of 10, distilled", figure="58.9 %, 61.1 %, 60.8 %"
        ),
        Published(label="share of the gain kept", figure="86 %"),
    ),
    to_reach=f"≥ {BAR:.0f} % of the gain kept",
    reduced="6 nets for 10, 16 epochs for 40 (members and student), 32 for 80 on 16 views for 40",
    minutes=(60, 12),
    steps=steps,
    summarise=summarise,
)
