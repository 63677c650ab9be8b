"""What tests of jobs have in common: specs, views of datasets and teachers, stand-ins for the ports."""

from datetime import UTC, datetime

from shared.contracts.architectures import Mlp
from shared.contracts.datasets import DatasetManifest, DatasetView, SplitCounts
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.kept import KeptCollection
from shared.contracts.specs import DistillationSpec, TeacherSpec
from shared.contracts.students import StudentCard
from shared.contracts.teachers import Nets, TeacherDescription
from shared.contracts.training import Budget
from shared.errors import (
    DatasetNotFound,
    JobStoreUnavailable,
    KeptNotFound,
    StudentNotFound,
    TeacherNotFound,
)

DIGITS = tuple(str(digit) for digit in range(10))
GREY = ImageInput(height=28, width=28, channels=1)
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def teacher_spec(name: str = "big", **changes: object) -> TeacherSpec:
    return TeacherSpec(name=name, dataset="digits", budget=Budget(epochs=1)).model_copy(update=changes)


def distillation_spec(**changes: object) -> DistillationSpec:
    return DistillationSpec(name="small", teacher="big", dataset="digits").model_copy(update=changes)


def teacher_description(**changes: object) -> TeacherDescription:
    of_nets = {name: changes.pop(name) for name in tuple(changes) if name in Nets.model_fields}
    return TeacherDescription(
        name="big",
        digest="0" * 64,
        model=Nets(architecture=Mlp()).model_copy(update=of_nets),
        classes=DIGITS,
        preprocessing=Preprocessing(input=GREY, mean=(0.0,), std=(1.0,)),
        created_at=BEGINNING,
    ).model_copy(update=changes)


def dataset_manifest(**changes: object) -> DatasetManifest:
    return DatasetManifest(
        digest="1" * 64,
        classes=DIGITS,
        input=GREY,
        counts=SplitCounts(train=100, validation=10, test=10),
        labelled=True,
        pixel_mean=(0.1,),
        pixel_std=(0.3,),
        source="a test",
        created_at=BEGINNING,
    ).model_copy(update=changes)


def dataset_view(manifest: DatasetManifest | None, **changes: object) -> DatasetView:
    return DatasetView(
        name="digits", builtin=False, available=True, description="digits", manifest=manifest
    ).model_copy(update=changes)


class KnownThings:
    """A `Catalogue` of one dataset, `digits`, and one teacher, `big`."""

    def __init__(self, dataset: DatasetView | None = None, teacher: TeacherDescription | None = None) -> None:
        self._dataset = dataset or dataset_view(dataset_manifest())
        self._teacher = teacher or teacher_description()

    def dataset(self, name: str) -> DatasetView:
        if name != "digits":
            raise DatasetNotFound(name)
        return self._dataset

    def teacher(self, name: str) -> TeacherDescription:
        if name != "big":
            raise TeacherNotFound(name)
        return self._teacher

    def student(self, version: str | None) -> StudentCard:
        raise StudentNotFound(version or "live")

    def kept(self, collection: str) -> KeptCollection:
        raise KeptNotFound(collection)

    def need_teacher_name(self, name: str) -> None:
        return None


class RememberingDispatcher:
    """A `Dispatcher` that keeps what was sent, or refuses as a broker does that is down."""

    def __init__(self, *, down: bool = False) -> None:
        self.sent: list[str] = []
        self.down = down

    def send(self, job_id: str) -> None:
        if self.down:
            raise JobStoreUnavailable("down for the test")
        self.sent.append(job_id)

    def backlog(self) -> int:
        return len(self.sent)

    def waiting(self, most: int) -> frozenset[str]:
        return frozenset(self.sent[:most])
