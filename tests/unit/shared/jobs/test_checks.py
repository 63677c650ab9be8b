from typing import get_args

import pytest

from shared.contracts.datasets import SplitCounts
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.specs import (
    MADE_BY,
    CodistillationSpec,
    JobKind,
    JobSpec,
    MutualSpec,
    SelfDistillationSpec,
    SpecialistPlan,
    SpecialistSpec,
    SpecialistsSpec,
    SweepSpec,
    TransferSetJobSpec,
)
from shared.contracts.training import Objective, StudentSpec
from shared.errors import (
    ClassMismatch,
    DatasetNotFound,
    DistillationError,
    InputMismatch,
    InvalidDataset,
    LabelsMissing,
    MadeByAnotherJob,
    TeacherNotFound,
)
from shared.jobs.checks import CHECKS, check, check_submitted
from tests.support.jobs import (
    DIGITS,
    KnownThings,
    dataset_manifest,
    dataset_view,
    distillation_spec,
    teacher_description,
    teacher_spec,
)

BACKWARDS = DIGITS[::-1]
SPECS: list[JobSpec] = [
    teacher_spec(),
    distillation_spec(),
    SelfDistillationSpec(name="self", dataset="digits"),
    MutualSpec(name="cohort", dataset="digits"),
    CodistillationSpec(name="cohort", dataset="digits"),
    SpecialistsSpec(name="experts", dataset="digits", generalist="big", plan=SpecialistPlan(size=4)),
    SweepSpec(name="sweep", dataset="digits", teacher="big"),
    TransferSetJobSpec(name="asked", dataset="digits", teacher="big"),
]
"""One of each kind that can be submitted."""
ELSEWHERE = {"teacher_import", "teacher_check", "redistillation"}
"""Kinds that refuse little and find much: `test_checks_brought_teacher`; and `test_checks_redistillation`."""
TAUGHT = [spec for spec in SPECS if spec.kind in ("distillation", "specialists", "sweep", "transfer_set")]
LABELLED = [spec for spec in SPECS if spec.kind != "transfer_set"]
"""Kinds that need hard labels, and images to validate and test on."""


@pytest.mark.parametrize("spec", SPECS)
def test_a_job_that_fits_passes(spec: JobSpec) -> None:
    check(spec, KnownThings())


@pytest.mark.parametrize("spec", SPECS)
def test_a_built_in_dataset_that_was_never_used_passes_until_the_worker_has_made_it(spec: JobSpec) -> None:
    check(spec, KnownThings(dataset_view(None, builtin=True)))


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (teacher_spec(dataset="no"), DatasetNotFound),
        (distillation_spec(dataset="no"), DatasetNotFound),
        (distillation_spec(teacher="no"), TeacherNotFound),
        (SpecialistsSpec(name="experts", dataset="digits", generalist="no"), TeacherNotFound),
        (SweepSpec(name="sweep", dataset="digits", teacher="no"), TeacherNotFound),
        (distillation_spec(student=StudentSpec(classes=BACKWARDS)), ClassMismatch),
    ],
)
def test_what_does_not_exist_or_does_not_fit_the_teacher_is_refused(
    spec: JobSpec, error: type[DistillationError]
) -> None:
    with pytest.raises(error):
        check(spec, KnownThings())


def test_a_student_with_other_classes_is_refused_even_before_the_dataset_is_made() -> None:
    spec = distillation_spec(student=StudentSpec(classes=BACKWARDS))
    with pytest.raises(ClassMismatch, match="the student has"):
        check(spec, KnownThings(dataset_view(None)))


def test_a_built_in_dataset_whose_files_are_missing_is_refused_with_where_they_belong() -> None:
    missing = dataset_view(None, available=False, description="MNIST, from the idx files")
    with pytest.raises(DatasetNotFound) as refusal:
        check(teacher_spec(), KnownThings(missing))
    assert "MNIST, from the idx files" in refusal.value.remedy


@pytest.mark.parametrize("spec", TAUGHT)
def test_a_dataset_of_other_classes_or_another_order_than_the_teachers_is_refused(spec: JobSpec) -> None:
    for classes in (BACKWARDS, ("cat", "dog")):
        dataset = dataset_view(dataset_manifest(classes=classes))
        with pytest.raises(ClassMismatch, match="dataset 'digits' has"):
            check(spec, KnownThings(dataset))


@pytest.mark.parametrize("spec", TAUGHT)
def test_images_of_another_size_than_the_teacher_takes_are_refused_with_both_sizes(spec: JobSpec) -> None:
    wide = Preprocessing(input=ImageInput(height=32, width=32, channels=3), mean=(0,) * 3, std=(1,) * 3)
    with pytest.raises(InputMismatch, match=r"28 x 28 x 1, .* takes 32 x 32 x 3"):
        check(spec, KnownThings(teacher=teacher_description(preprocessing=wide)))


def test_a_student_may_learn_from_images_without_labels_where_its_objective_needs_none() -> None:
    unlabelled = KnownThings(dataset_view(dataset_manifest(labelled=False)))
    check(distillation_spec(), unlabelled)
    with pytest.raises(LabelsMissing, match="the objective's hard labels"):
        check(distillation_spec(objective=Objective(hard_weight=0.1)), unlabelled)


@pytest.mark.parametrize("spec", [spec for spec in LABELLED if spec.kind != "distillation"])
@pytest.mark.parametrize("changes", [{"labelled": False}, {"labelled": False, "classes": ()}])
def test_images_without_labels_are_refused(spec: JobSpec, changes: dict[str, object]) -> None:
    with pytest.raises(LabelsMissing):
        check(spec, KnownThings(dataset_view(dataset_manifest(**changes))))


def test_a_student_cannot_learn_where_nothing_is_labelled_to_judge_it_by() -> None:
    nothing = KnownThings(dataset_view(dataset_manifest(labelled=False, classes=())))
    with pytest.raises(LabelsMissing):
        check(distillation_spec(), nothing)


@pytest.mark.parametrize("spec", LABELLED)
@pytest.mark.parametrize("empty", ["validation", "test"])
def test_a_dataset_without_images_to_decide_or_report_on_is_refused(spec: JobSpec, empty: str) -> None:
    counts = SplitCounts(**{"train": 9, "validation": 1, "test": 1, empty: 0})
    with pytest.raises(InvalidDataset, match=f"no {empty} images"):
        check(spec, KnownThings(dataset_view(dataset_manifest(counts=counts))))


def test_a_teacher_may_be_asked_about_images_without_labels_and_without_a_test_split() -> None:
    counts = SplitCounts(train=9, validation=0, test=0)
    unlabelled = dataset_view(dataset_manifest(labelled=False, counts=counts))
    check(TransferSetJobSpec(name="asked", dataset="digits", teacher="big"), KnownThings(unlabelled))


def test_every_kind_is_checked_and_every_kind_can_be_submitted_or_is_made_by_one_that_can() -> None:
    kinds = set(get_args(JobKind))
    assert set(CHECKS) == kinds
    assert {spec.kind for spec in SPECS} == kinds - set(MADE_BY) - ELSEWHERE
    assert set(MADE_BY.values()) <= kinds - set(MADE_BY)


def test_a_kind_that_only_jobs_make_is_refused_with_the_kind_to_submit() -> None:
    child = SpecialistSpec(
        name="expert", generalist="big", generalist_digest="0" * 64, dataset="digits", classes=("3", "8")
    )
    with pytest.raises(MadeByAnotherJob) as refusal:
        check_submitted(child, KnownThings())
    assert "'specialists'" in refusal.value.remedy
    check(child, KnownThings())
