"""What is refused of jobs that bring or try a teacher, before anything is read."""

import pytest

from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.specs import TeacherCheckSpec, TeacherImportSpec
from shared.contracts.teacher_sources import EnsembleSource, OnnxSource
from shared.contracts.teachers import TeacherDescription
from shared.errors import (
    ClassMismatch,
    DatasetNotFound,
    InputMismatch,
    InvalidEnsemble,
    TeacherDoesNotTemper,
    TeacherNotFound,
)
from shared.jobs.checks import check_submitted
from tests.support.jobs import DIGITS, KnownThings, teacher_description

SMALL = ImageInput(height=8, width=8, channels=1)


class Teachers(KnownThings):
    """The same dataset, and more teachers than one."""

    def __init__(self, *teachers: TeacherDescription) -> None:
        super().__init__()
        self._teachers = {teacher.name: teacher for teacher in (teacher_description(), *teachers)}

    def teacher(self, name: str) -> TeacherDescription:
        if name not in self._teachers:
            raise TeacherNotFound(name)
        return self._teachers[name]


def ensemble(*members: str, **changes: object) -> TeacherImportSpec:
    return TeacherImportSpec(name="both", source=EnsembleSource(members=members)).model_copy(update=changes)


def onnx(dataset: str | None = "digits", **said: object) -> TeacherImportSpec:
    return TeacherImportSpec(name="net", source=OnnxSource(**said), dataset=dataset)


def test_a_source_that_says_nothing_against_it_passes():
    check_submitted(onnx(), KnownThings())
    check_submitted(onnx(None, classes=("a", "b")), KnownThings())
    check_submitted(onnx(classes=DIGITS), KnownThings())


def test_a_dataset_has_to_be_there():
    with pytest.raises(DatasetNotFound):
        check_submitted(onnx("nothing"), KnownThings())


def test_classes_that_the_order_gives_are_the_datasets_in_its_order():
    with pytest.raises(ClassMismatch):
        check_submitted(onnx(classes=DIGITS[::-1]), KnownThings())


def test_images_that_the_order_gives_are_the_datasets():
    with pytest.raises(InputMismatch):
        check_submitted(onnx(input=SMALL), KnownThings())


def test_members_that_agree_make_an_ensemble():
    check_submitted(ensemble("big", "other"), Teachers(teacher_description(name="other")))
    check_submitted(ensemble("big", "other", dataset="digits"), Teachers(teacher_description(name="other")))


UNFIT = {
    "not there": (None, TeacherNotFound),
    "other classes": (teacher_description(name="other", classes=DIGITS[::-1]), ClassMismatch),
    "other images": (
        teacher_description(name="other", preprocessing=Preprocessing(input=SMALL, mean=(0,), std=(1,))),
        InputMismatch,
    ),
    "not tempering": (
        teacher_description(name="other", merge="arithmetic", members=2), TeacherDoesNotTemper,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_members_that_cannot_answer_together_are_refused(case: str):
    other, error = UNFIT[case]
    with pytest.raises(error):
        check_submitted(ensemble("big", "other"), Teachers(*([other] if other else [])))


def test_an_ensemble_has_a_name_of_its_own():
    with pytest.raises(InvalidEnsemble):
        check_submitted(ensemble("big", "both"), Teachers(teacher_description(name="both")))


def test_an_ensemble_is_of_the_classes_that_the_order_and_the_dataset_give():
    others = {"name": "other", "classes": DIGITS[::-1]}
    one = teacher_description(**others)
    two = teacher_description(**others | {"name": "another"})
    with pytest.raises(ClassMismatch, match="digits"):
        check_submitted(ensemble("other", "another", dataset="digits"), Teachers(one, two))
    spec = TeacherImportSpec(name="both", source=EnsembleSource(members=("other", "another"), classes=DIGITS))
    with pytest.raises(ClassMismatch, match="order"):
        check_submitted(spec, Teachers(one, two))


def test_a_teacher_is_tried_even_where_it_will_not_fit():
    """That it does not fit is what the check is to find."""
    unfit = teacher_description(classes=DIGITS[::-1])
    check_submitted(TeacherCheckSpec(name="big", dataset="digits"), KnownThings(teacher=unfit))
    for spec, error in (
        (TeacherCheckSpec(name="nobody", dataset="digits"), TeacherNotFound),
        (TeacherCheckSpec(name="big", dataset="nothing"), DatasetNotFound),
    ):
        with pytest.raises(error):
            check_submitted(spec, KnownThings())
