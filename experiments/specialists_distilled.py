"""Generalist and specialists distilled back into one student, which the paper left open (its section 7).

The student has the generalist's shape and starts from first weights of its own. Beside it a student is
taught by the generalist alone under the same budget: what it gains, no specialist taught.
Estimated: 3 + 3 minutes on Omniglot and, in the full form alone, on Tiny ImageNet; beside the jobs of
`specialists`.
"""

from experiments import specialists
from experiments.experiment import Experiment, Form, JobStep, Outcomes, Step, accuracies
from experiments.result import Figure, Finding
from experiments.teachers import photographs_budget
from shared.contracts.specs import DistillationSpec
from shared.contracts.training import Budget, Objective, StudentSpec, TransferSetSpec

BAR = 80.0
"""Per cent of the gain."""


def sets_of(form: Form) -> tuple[str, ...]:
    """Return the sets of a form: students on Tiny ImageNet take too long for two cores."""
    return ("omniglot",) if form.reduced else specialists.SETS


def student(form: Form, of: str, step: str, teacher: JobStep) -> JobStep:
    """Return the distillation of one net of the generalist's shape from a teacher."""
    rule = specialists.REGULARISATION[of]
    budgets = {
        "tiny-imagenet": photographs_budget(form(100, 14)),
        "omniglot": Budget(epochs=form(200, 60), batch_size=128, precision="bfloat16", keep="last"),
    }
    spec = DistillationSpec(
        name=form.named("specialists-distilled", step),
        teacher=teacher.spec.name,
        dataset=specialists.DATASETS[of],
        student=StudentSpec(
            network=specialists.NETWORKS[of],
            regularisation=rule.model_copy(update={"jitter_px": 0, "flip": False}),
        ),
        objective=Objective(temperature=2.0, soft_weight=0.9, hard_weight=0.1),
        transfer_set=TransferSetSpec(views=form(40, 20), jitter_px=rule.jitter_px, flip=rule.flip),
        budget=budgets[of],
        seeds=form.seeds,
    )
    return JobStep(step, spec, after=(teacher.name,))


def steps(form: Form) -> list[Step]:
    """Return generalist, specialists, and the two students on each set."""
    made: list[Step] = []
    for of in sets_of(form):
        generalist, ensemble = specialists.generalist(form, of), specialists.ensemble(form, of)
        made += [
            generalist,
            ensemble,
            student(form, of, f"{of}-student", ensemble),
            student(form, of, f"{of}-of-generalist", generalist),
        ]
    return made


def summarise(outcomes: Outcomes) -> Finding:
    """Say which share of the specialists' gain over the generalist the student keeps."""
    figures: list[Figure] = []
    said: list[str] = []
    reached = []
    for of in sets_of(outcomes.form):
        alone, together, report = specialists.gain(outcomes, of)
        words = specialists.WORDS[of]
        # What teaches is the published seed's ensemble, not the mean of all.
        teacher = Figure(
            label=f"{words}: generalist and specialists, as published",
            unit="%",
            values=(100 * report.combined.accuracy,),
        )
        one = accuracies(f"{words}: distilled into one student", outcomes.nets(f"{of}-student", "taught"))
        control = accuracies(
            f"{words}: taught by the generalist alone", outcomes.nets(f"{of}-of-generalist", "taught")
        )
        untaught = accuracies(f"{words}: untaught", outcomes.nets(f"{of}-student", "untaught"))
        figures += [alone, together, teacher, one, control, untaught]
        gained = teacher.mean - alone.mean
        if gained <= 0:
            reached.append(False)
            said.append(f"{words}: the specialists gained nothing ({gained:+.2f} points) that could be kept")
            continue
        kept = 100 * (one.mean - alone.mean) / gained
        reached.append(kept >= BAR)
        said.append(
            f"{words}: {alone.mean:.2f} → {teacher.mean:.2f} → {one.mean:.2f} % ({kept:.0f} % of the gain; "
            f"taught by the generalist alone {control.mean:.2f} %, untaught {untaught.mean:.2f} %)"
        )
    return Finding(
        figures=tuple(figures),
        headline="; ".join(said),
        reached=any(reached),
        verdict=f"{'; '.join(said)}. {BAR:.0f} % {'reached' if any(reached) else 'not reached'}.",
    )


EXPERIMENT = Experiment(
    name="specialists-distilled",
    title="Generalist and specialists in one student",
    source="nobody: arXiv:1503.02531 left it open (section 7)",
    published=(),
    to_reach=f"one student that keeps ≥ {BAR:.0f} % of the gain",
    reduced="on Omniglot alone; the `specialists` experiment's reduced form, students 60 epochs for 200, 20 "
    "views an image for 40",
    minutes=(120, 7),
    steps=steps,
    summarise=summarise,
)
