"""No experiment asks for what the API refuses: every spec of both forms passes the checks of submission."""

from datetime import UTC, datetime

import pytest

from experiments import specialists_distilled
from experiments.experiment import Experiment, Form, JobStep
from experiments.registry import EXPERIMENTS
from shared.contracts.architectures import Mlp
from shared.contracts.datasets import DatasetManifest, DatasetView, SplitCounts
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.kept import KeptCollection
from shared.contracts.specialists import Combination, SpecialistPart
from shared.contracts.specs import DistillationSpec, JobSpec, RedistillationSpec, SpecialistsSpec, TeacherSpec
from shared.contracts.students import StudentCard
from shared.contracts.teachers import Nets, TeacherDescription
from shared.errors import DatasetNotFound, TeacherNotFound, ViewsBelongToTransferSet
from shared.jobs.checks import check_submitted
from tests.support.student_bundles import card

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
NO_DIGEST = "0" * 64
DIGITS = tuple(str(digit) for digit in range(10))


def numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class-{number:03}" for number in range(count))


# Side, channels, classes, training images.
DATASETS = {
    "mnist": (28, 1, DIGITS, 55_000),
    "mnist-5k": (28, 1, DIGITS, 3_500),
    "exp-flywheel-digits": (28, 1, DIGITS, 1_000),
    "exp-flywheel-digits-reduced": (28, 1, DIGITS, 1_000),
    "cifar10": (32, 3, numbered(10), 45_000),
    "spoken-digits": (28, 1, DIGITS, 100_000),
    "omniglot": (28, 1, numbered(242), 3_388),
    "tiny-imagenet-32-100": (32, 3, numbered(100), 45_000),
}


class World:
    """Datasets that are made up, and the teachers that the steps so far would have published."""

    def __init__(self) -> None:
        self.teachers: dict[str, TeacherDescription] = {}
        self.students: list[StudentCard] = []
        """The ones of distillations, the newest last."""

    def dataset(self, name: str) -> DatasetView:
        if name not in DATASETS:
            raise DatasetNotFound(name)
        side, channels, classes, images = DATASETS[name]
        manifest = DatasetManifest(
            digest=NO_DIGEST,
            classes=classes,
            input=ImageInput(height=side, width=side, channels=channels),
            counts=SplitCounts(train=images, validation=500, test=500),
            labelled=True,
            pixel_mean=(0.5,) * channels,
            pixel_std=(0.25,) * channels,
            source="made up",
            created_at=NOON,
        )
        return DatasetView(name=name, builtin=True, available=True, description=name, manifest=manifest)

    def teacher(self, name: str) -> TeacherDescription:
        if name not in self.teachers:
            raise TeacherNotFound(name)
        return self.teachers[name]

    def need_teacher_name(self, name: str) -> None:
        """Everything is one owner's."""

    def student(self, version: str | None) -> StudentCard:
        assert self.students, "promoted before"
        return self.students[-1]

    def kept(self, collection: str) -> KeptCollection:
        return KeptCollection(
            name=collection, images=9, size_bytes=9, since=NOON, until=NOON, escalated=9, disagreed=0,
            students=(),
        )  # fmt: skip

    def publish(self, spec: JobSpec) -> None:
        if isinstance(spec, RedistillationSpec):
            return
        if isinstance(spec, DistillationSpec):
            facts = {"teacher": spec.teacher, "dataset": spec.dataset}
            self.students.append(card("any-1", b"").model_copy(update=facts))
        manifest = self.dataset(spec.dataset).manifest
        assert manifest is not None
        combination = None
        if isinstance(spec, SpecialistsSpec):
            parts = tuple(
                SpecialistPart(classes=manifest.classes[: spec.plan.size]) for _ in range(spec.plan.sets)
            )
            combination = Combination(top_n=spec.top_n, specialists=parts)
        elif not isinstance(spec, TeacherSpec):
            return
        self.teachers[spec.name] = TeacherDescription(
            name=spec.name,
            digest=NO_DIGEST,
            model=Nets(
                architecture=getattr(spec, "architecture", Mlp(hidden_units=(8,))),
                members=len(spec.seeds) if isinstance(spec, TeacherSpec) else 1,
                specialists=combination,
            ),
            classes=manifest.classes,
            preprocessing=Preprocessing(
                input=manifest.input, mean=manifest.pixel_mean, std=manifest.pixel_std
            ),
            created_at=NOON,
        )


def submit_all(experiment: Experiment, form: Form) -> None:
    world = World()
    for step in experiment.steps(form):
        if isinstance(step, JobStep):
            check_submitted(step.spec, world)
            world.publish(step.spec)


@pytest.mark.parametrize("reduced", [False, True], ids=["full", "reduced"])
@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=list(EXPERIMENTS))
def test_no_step_is_refused_when_it_is_submitted(experiment: Experiment, reduced: bool):
    submit_all(experiment, Form(reduced=reduced))


def test_a_student_that_alone_is_shown_jitter_would_be_seen():
    steps = list(specialists_distilled.steps(Form(reduced=True)))
    world = World()
    for step in steps[:2]:
        assert isinstance(step, JobStep)
        world.publish(step.spec)
    student = steps[2]
    assert isinstance(student, JobStep)
    assert isinstance(student.spec, DistillationSpec)
    shaken = student.spec.student.regularisation.model_copy(update={"jitter_px": 2})
    spec = student.spec.model_copy(
        update={"student": student.spec.student.model_copy(update={"regularisation": shaken})}
    )
    with pytest.raises(ViewsBelongToTransferSet):
        check_submitted(spec, world)
