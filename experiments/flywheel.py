"""One turn of the flywheel with real digits: images posted, kept, learned from, and a better student live.

A student that knows 1,000 digits answers predictions; its teacher stands behind it (cascade), and with
consent the images that it is not sure of are kept. A redistillation learns from them. Estimated: 40 and 12
minutes on two quiet cores. It promotes students and sets the traffic policy: not for a stack that serves
anybody.
"""

from experiments.experiment import Action, Experiment, Form, JobStep, Outcomes, Step, accuracies
from experiments.result import Figure, Finding, Table
from shared.contracts.architectures import Cnn, Mlp
from shared.contracts.specs import DistillationSpec, RedistillationSpec, TeacherSpec
from shared.contracts.succession import Rival, Succession
from shared.contracts.training import Budget, Objective, Regularisation, StudentSpec

DATASET = "digits"
TEACHER = "teacher"
BASE = "before"
SENDING = "sending"
TURN = "after"
ASKING = "asking"
SHARE = 0.2
"""Of the images, that the student escalates."""


def dataset(form: Form) -> str:
    """Return the name of the dataset that the first student learns from."""
    return form.named("flywheel", "digits")


def collection(form: Form) -> str:
    """Return the name that images are kept under."""
    return form.named("flywheel", "unsure")


def frozen(form: Form) -> str:
    """Return the name of the dataset with the kept images."""
    return form.named("flywheel", "digits-and-unsure")


def sent_images(form: Form) -> int:
    """Return how many images of the training set are sent."""
    return form(50_000, 20_000)


def steps(form: Form) -> list[Step]:
    """Return dataset, teacher, first student, traffic, second student, a last look through the gateway."""
    module = "experiments.flywheel_traffic"
    teacher = TeacherSpec(
        name=form.named("teacher", "flywheel"),
        dataset="mnist",
        architecture=Cnn(channels=(16, 32), hidden_units=128),
        regularisation=Regularisation(hidden_dropout=0.25, jitter_px=1),
        budget=Budget(epochs=form(12, 3), batch_size=256, precision="bfloat16", keep="last"),
    )
    student = DistillationSpec(
        name=form.named("flywheel", "student"),
        teacher=teacher.name,
        dataset=dataset(form),
        student=StudentSpec(network=Mlp(hidden_units=(400, 400))),
        objective=Objective(temperature=4.0, soft_weight=0.5, hard_weight=0.5),
        budget=Budget(epochs=form(80, 40), batch_size=128, precision="bfloat16"),
        seeds=form.seeds,
    )
    again = RedistillationSpec(
        name=form.named("flywheel", "again"), collection=collection(form), dataset=frozen(form)
    )
    return [
        Action(DATASET, module, "upload", makes=(dataset(form),)),
        JobStep(TEACHER, teacher),
        JobStep(BASE, student, after=(TEACHER,)),
        Action(SENDING, module, "send", makes=(frozen(form),)),
        JobStep(TURN, again, after=(BASE,)),
        Action(ASKING, module, "ask"),
    ]


def summarise(outcomes: Outcomes) -> Finding:
    """Compare the two students as files, on the test split, and as they answered through the gateway."""
    after = outcomes.distillation(TURN)
    succession = after.succession
    assert succession is not None, "the kind reports one"
    sent, asked = outcomes.computed[SENDING], outcomes.computed[ASKING]
    test = succession.base.test
    low, high = (100 * bound for bound in test.interval)
    answered = asked["answered by the new student"][0] == 1
    reached = succession.promoted and test.interval[0] > 0 and answered
    gain = f"{100 * test.gain:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}, p = {test.p_value:.2g})"
    return Finding(
        figures=(
            _teacher(outcomes),
            accuracies("before: taught on 1,000 labelled digits", outcomes.nets(BASE, "taught")),
            accuracies("before: untaught", outcomes.nets(BASE, "untaught")),
            accuracies("after: taught on these and on kept digits", outcomes.nets(TURN, "taught")),
            accuracies("after: untaught", outcomes.nets(TURN, "untaught")),
            Figure(label="live before, asked through the gateway", unit="%", values=sent["before"]),
            Figure(label="live after, asked through the gateway", unit="%", values=asked["after"]),
        ),
        headline=f"{100 * test.old_accuracy:.2f} → {100 * test.new_accuracy:.2f} %: {gain}, "
        f"{'promoted' if succession.promoted else 'not promoted'}",
        reached=reached,
        verdict=f"Of {sent['sent'][0]:,.0f} images that were posted {sent['kept'][0]:,.0f} were kept; the "
        f"new student gets {100 * test.new_accuracy:.2f} % of {test.images:,} test images right, the one "
        f"before {100 * test.old_accuracy:.2f} %: {gain}. It was "
        f"{'promoted' if succession.promoted else 'not promoted'}: {succession.reason}.",
        tables=(_table(succession), _kept(succession)),
    )


def _teacher(outcomes: Outcomes) -> Figure:
    values = (100 * outcomes.teacher(TEACHER).evaluation.accuracy,)
    return Figure(label="teacher", unit="%", values=values)


def _table(succession: Succession) -> Table:
    rivals: list[Rival] = [succession.base]
    if succession.incumbent is not None:
        rivals.append(succession.incumbent)
    rows = [
        (
            rival.version,
            split,
            f"{found.images:,}",
            f"{found.old_accuracy:.2%}",
            f"{found.new_accuracy:.2%}",
            f"{found.only_old} / {found.only_new}",
            f"{100 * found.interval[0]:+.2f} to {100 * found.interval[1]:+.2f}",
            f"{found.p_value:.2g}",
            found.verdict.value,
        )
        for rival in rivals
        for split, found in (("validation (decides)", rival.validation), ("test (reports)", rival.test))
    ]
    columns = (
        "against", "split", "images", "old", "new", "only old / only new right", "95 % interval (points)",
        "p", "verdict",
    )  # fmt: skip
    return Table(title="The succession", columns=columns, rows=tuple(rows))


def _kept(succession: Succession) -> Table:
    frozen = succession.frozen
    rows = (
        ("learned from, without labels", f"{frozen.taken:,}"),
        ("left out: training images of the first student", f"{frozen.known:,}"),
        ("left out: validation or test images", f"{frozen.held_out:,}"),
    )
    return Table(title="Kept images", columns=("", "images"), rows=rows)


EXPERIMENT = Experiment(
    name="flywheel",
    title="From posted images to a better student that is live",
    source="nobody: production closes the loop here",
    published=(),
    to_reach="the new student is promoted by its job, answers at the gateway, and is better on the test "
    "split (95 % interval above 0)",
    reduced="20,000 images sent for 50,000, 3 epochs of the teacher for 12, 40 of the students for 80",
    minutes=(40, 12),
    steps=steps,
    summarise=summarise,
)
