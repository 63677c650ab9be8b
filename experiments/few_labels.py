"""3 % of the data: soft targets as a regulariser (the paper's section 6, on speech).

On digits and on frames of spoken digits. The hard side stops early, the soft side keeps its last epoch. The
paper's own form has 3 % of the images, labels and soft targets alike; beside it stand the same 3 % with
several views an image, and all images of which 3 % are labelled. Estimated: 10 minutes beside the teachers.
"""

from experiments import recipes, teachers
from experiments.experiment import Experiment, Form, JobStep, Outcomes, Step, accuracies
from experiments.result import Figure, Finding, Published, Table
from shared.contracts.specs import DistillationSpec
from shared.contracts.training import Budget, Objective, StudentSpec, TransferSetSpec

SHARE = 0.03
BAR = 80.0
"""Per cent of the gap."""
DIGITS, SPOKEN = "digits", "spoken"
FORMS = {
    "soft": "3 % of the images",
    "views": "3 % of the images, several views of each",
    "unlabelled": "all images, 3 % of them labelled",
}


def spoken_student(
    form: Form,
    experiment: str,
    step: str,
    *,
    transfer_set: TransferSetSpec,
    budget: Budget,
    objective: Objective,
) -> JobStep:
    """Return the distillation of one net of the ensemble's size on frames of spoken digits."""
    teacher = teachers.spoken(form)
    spec = DistillationSpec(
        name=form.named(experiment, step),
        teacher=teacher.spec.name,
        dataset="spoken-digits",
        student=StudentSpec(network=teachers.SPOKEN_NET),
        objective=objective,
        transfer_set=transfer_set,
        budget=budget,
        seeds=form.seeds,
    )
    return JobStep(step, spec, after=(teacher.name,))


def spoken_paper(form: Form) -> JobStep:
    """Return the student of `ensemble` and its untaught twin, the hard-label net on all labels."""
    return spoken_student(
        form,
        "ensemble",
        "paper",
        transfer_set=TransferSetSpec(),
        budget=teachers.spoken_budget(form(40, 16)),
        objective=Objective(temperature=teachers.SPOKEN_TEMPERATURE, soft_weight=0.5, hard_weight=0.5),
    )


def steps(form: Form) -> list[Step]:
    """Return for both datasets: teacher, all labels, and at 3 % the hard and the soft sides."""
    few = TransferSetSpec(share=SHARE)
    made: list[Step] = []
    for name, teacher, all_labels, student, objective, jitter, epochs in (
        (
            DIGITS,
            teachers.mnist(form),
            recipes.mnist_paper(form),
            recipes.mnist_student,
            recipes.PAPER_OBJECTIVE,
            2,
            form(400, 200),
        ),
        (
            SPOKEN,
            teachers.spoken(form),
            spoken_paper(form),
            spoken_student,
            Objective(temperature=teachers.SPOKEN_TEMPERATURE, soft_weight=1.0, hard_weight=0.0),
            1,
            form(400, 100),
        ),
    ):
        short = Budget(epochs=epochs, batch_size=64, precision="bfloat16")
        long = recipes.digits_budget(form(40, 10))
        made += [teacher, JobStep(f"{name}-all", all_labels.spec, all_labels.after)]
        for step, transfer_set, budget in (
            ("hard", few, short),
            ("soft", few, short.model_copy(update={"keep": "last"})),
            (
                "views",
                few.model_copy(update={"views": epochs // 2, "jitter_px": jitter}),
                short.model_copy(update={"keep": "last"}),
            ),
            ("unlabelled", TransferSetSpec(label_share=SHARE), long.model_copy(update={"keep": "last"})),
        ):
            made.append(
                student(
                    form,
                    "few-labels",
                    f"{name}-{step}",
                    transfer_set=transfer_set,
                    budget=budget,
                    objective=objective,
                )
            )
    return made


def summarise(outcomes: Outcomes) -> Finding:
    """Say which share of the gap between 3 % and all hard labels the soft targets recover."""
    figures: list[Figure] = []
    recovered: dict[tuple[str, str], float] = {}
    for name, words, published in (
        (DIGITS, "digits", (None, None, None)),
        (SPOKEN, "spoken digits", (58.9, 44.5, 57.0)),
    ):
        everything = accuracies(
            f"{words}: hard, all", outcomes.nets(f"{name}-all", "untaught"), published=published[0]
        )
        hard = accuracies(
            f"{words}: hard, 3 %, stopped early",
            outcomes.nets(f"{name}-hard", "untaught"),
            published=published[1],
        )
        figures += [everything, hard]
        for step, of in FORMS.items():
            soft = accuracies(
                f"{words}: soft, {of}",
                outcomes.nets(f"{name}-{step}", "taught"),
                published=published[2] if step == "soft" else None,
            )
            figures.append(soft)
            recovered[name, step] = 100 * (soft.mean - hard.mean) / (everything.mean - hard.mean)
    reached = {step: all(recovered[name, step] >= BAR for name in (DIGITS, SPOKEN)) for step in FORMS}
    shares = "; ".join(
        f"{of}: {recovered[DIGITS, step]:.0f} % of the gap on digits, "
        f"{recovered[SPOKEN, step]:.0f} % on spoken digits"
        for step, of in FORMS.items()
    )
    return Finding(
        figures=tuple(figures),
        headline=shares,
        reached=reached["soft"],
        verdict=f"With {FORMS['soft']}, the paper's own form, {BAR:.0f} % of the gap is "
        f"{'recovered' if reached['soft'] else 'not recovered'} on both sets. Other forms that recover it: "
        f"{', '.join(FORMS[step] for step in ('views', 'unlabelled') if reached[step]) or 'none'}.",
        tables=(
            Table(
                title="Share of the gap between 3 % and all hard labels that soft targets recover",
                columns=("form", "digits", "spoken digits"),
                rows=tuple(
                    (of, f"{recovered[DIGITS, step]:.0f} %", f"{recovered[SPOKEN, step]:.0f} %")
                    for step, of in FORMS.items()
                ),
            ),
        ),
    )


EXPERIMENT = Experiment(
    name="few-labels",
    title="Soft targets as a regulariser, at 3 % of the data",
    source="arXiv:1503.02531, section 6",
    published=(
        Published(label="test frame accuracy: all, hard", figure="58.9 %"),
        Published(label="3 %, hard, stopped early", figure="44.5 %"),
        Published(label="3 %, soft, without early stopping", figure="57.0 % (87 % of the gap)"),
    ),
    to_reach="on spoken digits and on MNIST: soft at 3 % recovers ≥ 80 % of the gap, without early stopping",
    reduced="the shared teachers' reduced forms (ensemble of 6 for 10), 200 epochs on digits and 100 on "
    "speech for 400 at 3 %, 10 for 40 on all images, half as many views as epochs",
    minutes=(60, 14),
    steps=steps,
    summarise=summarise,
)
