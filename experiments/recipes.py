"""Students that several experiments share."""

from experiments import teachers
from experiments.experiment import Form, JobStep
from shared.contracts.architectures import Mlp
from shared.contracts.specs import DistillationSpec
from shared.contracts.training import BiasRepair, Budget, Objective, StudentSpec, TransferSetSpec

PAPER_OBJECTIVE = Objective(temperature=20.0, soft_weight=1.0, hard_weight=0.0)
"""Only the task of matching soft targets at T = 20 (arXiv:1503.02531, section 3)."""
WRITE_UP_OBJECTIVE = Objective(temperature=4.0, soft_weight=0.5, hard_weight=0.5)
"""T = 4 and a = 0.5, as the write-up of January 2025 chose on its validation split."""

MNIST_STUDENT = Mlp(hidden_units=(800, 800))


def digits_budget(epochs: int) -> Budget:
    """Return the budget of a student of digits. The last epoch is kept: there is no early stopping."""
    return Budget(epochs=epochs, batch_size=256, precision="bfloat16", keep="last")


def views(number: int) -> TransferSetSpec:
    """Return a transfer set of several views an image, shifted as far as the teacher's training images.

    There are 25 such shifts, and views draw from them: 40 bring four fifths of them to each image.
    """
    return TransferSetSpec(views=number, jitter_px=2)


def mnist_student(
    form: Form,
    experiment: str,
    step: str,
    *,
    objective: Objective = PAPER_OBJECTIVE,
    transfer_set: TransferSetSpec | None = None,
    budget: Budget,
    bias_repair: BiasRepair | None = None,
    teacher: JobStep | None = None,
) -> JobStep:
    """Return the distillation of 784-800-800-10 from a teacher of digits."""
    taught_by = teacher or teachers.mnist(form)
    spec = DistillationSpec(
        name=form.named(experiment, step),
        teacher=taught_by.spec.name,
        dataset="mnist",
        student=StudentSpec(network=MNIST_STUDENT),
        objective=objective,
        transfer_set=transfer_set or TransferSetSpec(),
        bias_repair=bias_repair,
        budget=budget,
        seeds=form.seeds,
    )
    return JobStep(step, spec, after=(taught_by.name,))


def mnist_paper(form: Form) -> JobStep:
    """Return the paper's own student of digits, and its untaught twin: the hard-label net on all labels."""
    return mnist_student(form, "mnist", "paper", budget=digits_budget(form(100, 20)))
