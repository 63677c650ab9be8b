"""A student led by its teacher's layers: hints (FitNets, arXiv:1412.6550) and attention (arXiv:1612.03928).

Both beside soft targets, and soft targets alone for comparison. Full form: ResNet-20 taught by ResNet-56 on
photographs. Reduced form (6 minutes): a small convolutional net taught by a wider one on 5,000 digits.
"""

from experiments import teachers
from experiments.experiment import Experiment, Form, JobStep, Outcomes, accuracies
from experiments.result import Finding, Published
from shared.contracts.architectures import Architecture, Cnn, ResNet
from shared.contracts.specs import DistillationSpec, TeacherSpec
from shared.contracts.training import (
    AttentionTransfer,
    Budget,
    Hint,
    Objective,
    Regularisation,
    StudentSpec,
    TransferSetSpec,
)

ATTENTION_WEIGHT = 10.0
"""1,000 divided by the elements of a map (arXiv:1612.03928, section 4.1): 5 at 14 x 14, 16 at 8 x 8."""
SOFT = Objective(temperature=4.0, soft_weight=0.9, hard_weight=0.1)
FORMS = {
    "soft": "soft targets alone",
    "hint": "soft targets and a hint",
    "attention": "soft targets and attention",
}


def teacher(form: Form) -> JobStep:
    """Return the teacher, of one net: the worker has to look into its layers."""
    if not form.reduced:
        return teachers.cifar10(form)
    spec = TeacherSpec(
        name=form.named("teacher", "digits-5k-cnn"),
        dataset="mnist-5k",
        architecture=Cnn(channels=(32, 64), hidden_units=128),
        regularisation=Regularisation(hidden_dropout=0.5, jitter_px=2),
        budget=Budget(epochs=60, batch_size=64, precision="bfloat16"),
    )
    return JobStep("teacher", spec)


def steps(form: Form) -> list[JobStep]:
    """Return the teacher, and a student with each kind of help."""
    taught_by = teacher(form)
    network: Architecture = ResNet(architecture="resnet20")
    middle, last = ("stage.1", "stage.1"), ("stage.2", "stage.2")
    dataset, transfer_set = "cifar10", TransferSetSpec(views=100, jitter_px=4, flip=True)
    budget = teachers.photographs_budget(200)
    if form.reduced:
        network = Cnn(channels=(8, 16), hidden_units=32)
        middle, last = ("block.0", "block.0"), ("block.1", "block.1")
        dataset, transfer_set = "mnist-5k", TransferSetSpec()
        budget = Budget(epochs=40, batch_size=64, precision="bfloat16")
    objectives = {
        "soft": SOFT,
        "hint": SOFT.model_copy(
            update={"hint": Hint(weight=0.1, student_layer=middle[0], teacher_layer=middle[1])}
        ),
        "attention": SOFT.model_copy(
            update={"attention": AttentionTransfer(weight=ATTENTION_WEIGHT, layers=(middle, last))}
        ),
    }
    return [taught_by] + [
        JobStep(
            step,
            DistillationSpec(
                name=form.named("hints", step),
                teacher=taught_by.spec.name,
                dataset=dataset,
                student=StudentSpec(network=network),
                objective=objective,
                transfer_set=transfer_set,
                budget=budget,
                seeds=form.seeds,
            ),
            after=(taught_by.name,),
        )
        for step, objective in objectives.items()
    ]


def summarise(outcomes: Outcomes) -> Finding:
    """Give each form's verdict over the untaught twin."""
    figures = [accuracies("untaught", outcomes.nets("soft", "untaught"))]
    said = []
    for step, words in FORMS.items():
        taught = accuracies(words, outcomes.nets(step, "taught"))
        comparison = outcomes.distillation(step).comparison
        figures.append(taught)
        said.append(f"{words} {100 * comparison.gain:+.2f} points, {comparison.verdict}")
    return Finding(
        figures=tuple(figures),
        headline="; ".join(said),
        reached=None,
        verdict=f"Over the untaught twin: {'; '.join(said)}.",
    )


EXPERIMENT = Experiment(
    name="hints",
    title="Led by the teacher's layers",
    source="pointers of the write-up: arXiv:1412.6550, arXiv:1612.03928",
    published=(Published(label="gain over the untaught twin", figure="no figure in the sources"),),
    to_reach="a gain over the untaught twin: the verdict, whichever it is",
    reduced="a convolutional net of 8 and 16 channels taught by one of 32 and 64 on 5,000 digits, in place "
    "of ResNet-20 by ResNet-56 on CIFAR-10; 40 epochs for 200, images as they are",
    minutes=(480, 6),
    steps=steps,
    summarise=summarise,
)
