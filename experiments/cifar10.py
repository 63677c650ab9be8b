"""Photographs: a small residual net taught by a larger one.

Full form (a GPU): ResNet-20 taught by ResNet-56, 200 epochs, as in the field's tables. Reduced form
(estimated on two cores: teacher 7 minutes, students 7): ResNet-8 taught by ResNet-20, on a tenth of
the images.
"""

from experiments import teachers
from experiments.experiment import Experiment, Form, JobStep, Outcomes, Step, accuracies
from experiments.result import Figure, Finding, Published
from shared.contracts.architectures import ResNet
from shared.contracts.specs import DistillationSpec
from shared.contracts.training import Objective, StudentSpec, TransferSetSpec

BAR = 0.93
"""Percentage points over the untaught twin."""
STUDENT = "student"


def steps(form: Form) -> list[Step]:
    """Return the teacher and the student."""
    teacher = teachers.cifar10(form)
    spec = DistillationSpec(
        name=form.named("cifar10", STUDENT),
        teacher=teacher.spec.name,
        dataset="cifar10",
        student=StudentSpec(network=ResNet(architecture="resnet8" if form.reduced else "resnet20")),
        objective=Objective(temperature=4.0, soft_weight=0.9, hard_weight=0.1),
        transfer_set=TransferSetSpec(
            views=form(100, 15), jitter_px=4, flip=True, share=0.1 if form.reduced else 1.0
        ),
        budget=teachers.photographs_budget(form(200, 15)),
        seeds=form.seeds,
    )
    return [teacher, JobStep(STUDENT, spec, after=(teacher.name,))]


def summarise(outcomes: Outcomes) -> Finding:
    """Compare the gain over the untaught twin with the best published gain."""
    full = not outcomes.form.reduced
    report = outcomes.distillation(STUDENT)
    taught = accuracies("distilled", outcomes.nets(STUDENT, "taught"), published=93.30 if full else None)
    untaught = accuracies("untaught", outcomes.nets(STUDENT, "untaught"), published=92.37 if full else None)
    gain = 100 * report.comparison.gain
    low, high = (100 * bound for bound in report.comparison.interval)
    reached = gain >= BAR
    return Finding(
        figures=(
            Figure(label="teacher", unit="%", values=(100 * report.teacher.accuracy,)),
            untaught,
            taught,
        ),
        headline=f"{untaught.mean:.2f} → {taught.mean:.2f} ({gain:+.2f} points)",
        reached=reached,
        verdict=f"The gain over the untaught twin is {gain:+.2f} points (95 % interval {low:+.2f} to "
        f"{high:+.2f}), {report.comparison.verdict}; +{BAR} points "
        f"{'reached' if reached else 'not reached'}. The photographs are a lossy JPEG copy: "
        "gains are compared with published ones, accuracies are not.",
    )


EXPERIMENT = Experiment(
    name="cifar10",
    title="Photographs: a small residual net",
    source="AberHu/Knowledge-Distillation-Zoo, ResNet-20 of ResNet-110",
    published=(Published(label="ResNet-20: untaught, distilled", figure="92.37 %, 93.30 % (+0.93)"),),
    to_reach=f"a gain ≥ {BAR} points over our untaught twin",
    reduced="ResNet-8 taught by ResNet-20 in place of ResNet-20 by ResNet-56, students on a tenth of the "
    "images, teacher 6 epochs for 200, students 15 for 200, 15 views an image for 100",
    minutes=(240, 15),
    steps=steps,
    summarise=summarise,
)
