import pytest
from pydantic import ValidationError

from shared.contracts.specs import (
    CodistillationMemberSpec,
    CodistillationSpec,
    MutualSpec,
    SelfDistillationSpec,
)
from shared.contracts.training import (
    Budget,
    Decoupled,
    Hint,
    Objective,
    Regularisation,
    TransferSetSpec,
)
from shared.errors import (
    DatasetNotFound,
    DecoupledNeedsClasses,
    DistillationError,
    InvalidRequest,
    LabelsMissing,
    NoLabelsLeft,
    OmitAndOnly,
    TeacherNotLoadable,
    UnknownClass,
    ViewsBelongToTransferSet,
)
from shared.jobs.checks import check
from tests.support.jobs import KnownThings, dataset_manifest, dataset_view

SELF = SelfDistillationSpec(name="s", dataset="digits")
MUTUAL = MutualSpec(name="m", dataset="digits")
COHORT = CodistillationSpec(name="c", dataset="digits")
MEMBER = CodistillationMemberSpec(name="c", dataset="digits", cohort="j-1", member=0, order=COHORT)
JITTERED = Regularisation(jitter_px=2)


@pytest.mark.parametrize(
    "spec", [SELF, MUTUAL, COHORT, MEMBER, MUTUAL.model_copy(update={"regularisation": JITTERED})]
)
def test_a_job_that_can_end_well_passes(spec) -> None:
    check(spec, KnownThings())
    check(spec, KnownThings(dataset_view(None, builtin=True)))


@pytest.mark.parametrize("spec", [SELF, MUTUAL, COHORT, MEMBER])
def test_a_dataset_that_is_not_there_or_has_no_labels_is_refused(spec) -> None:
    with pytest.raises(DatasetNotFound):
        check(spec.model_copy(update={"dataset": "no"}), KnownThings())
    with pytest.raises(LabelsMissing):
        check(spec, KnownThings(dataset_view(dataset_manifest(labelled=False))))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"regularisation": JITTERED}, ViewsBelongToTransferSet),
        ({"regularisation": Regularisation(flip=True)}, ViewsBelongToTransferSet),
        (
            {"objective": Objective(hint=Hint(weight=1, student_layer="a", teacher_layer="a"))},
            TeacherNotLoadable,
        ),
        ({"objective": Objective(soft_weight=0, hard_weight=1)}, InvalidRequest),
        ({"transfer_set": TransferSetSpec(omit=("no",))}, UnknownClass),
        ({"transfer_set": TransferSetSpec(omit=("1",), only=("2",))}, OmitAndOnly),
        ({"transfer_set": TransferSetSpec(label_share=0)}, NoLabelsLeft),
    ],
)
def test_generations_that_cannot_teach_are_refused(changes, error: type[DistillationError]) -> None:
    with pytest.raises(error) as refusal:
        check(SELF.model_copy(update=changes), KnownThings())
    assert refusal.value.remedy


def test_decoupled_generations_need_more_than_two_classes() -> None:
    spec = SELF.model_copy(update={"objective": Objective(decoupled=Decoupled())})
    check(spec, KnownThings())
    with pytest.raises(DecoupledNeedsClasses):
        check(spec, KnownThings(dataset_view(dataset_manifest(classes=("no", "yes")))))


@pytest.mark.parametrize("spec", [MUTUAL, COHORT])
def test_peers_without_hard_labels_are_refused(spec) -> None:
    with pytest.raises(ValidationError, match="hard_weight"):
        type(spec).model_validate({**spec.model_dump(), "hard_weight": 0.0})


def test_copies_that_would_never_count_or_answer_for_other_views_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no copy would ever count"):
        check(COHORT.model_copy(update={"burn_in_epochs": 3, "budget": Budget(epochs=3)}), KnownThings())
    with pytest.raises(InvalidRequest, match="other views"):
        check(COHORT.model_copy(update={"regularisation": JITTERED}), KnownThings())
