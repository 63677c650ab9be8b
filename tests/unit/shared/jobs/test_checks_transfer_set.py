"""What is refused of a transfer set when a job is handed in."""

import pytest

from shared.contracts.datasets import DatasetManifest
from shared.contracts.specs import (
    FloatRange,
    JobSpec,
    SelfDistillationSpec,
    SpecialistPlan,
    SpecialistsSpec,
    SweepSpec,
    TransferSetJobSpec,
)
from shared.contracts.training import Asking, Choice, TransferSetSpec
from shared.errors import (
    AskingImpossible,
    DistillationError,
    EmptyTransferSet,
    LabelsMissing,
    NoLabelsLeft,
    OmitAndOnly,
    UnknownClass,
)
from shared.jobs.checks import check
from shared.jobs.checks.transfer_set import check_transfer_set
from tests.support.jobs import DIGITS, KnownThings, dataset_manifest, dataset_view, distillation_spec

UNKNOWN = TransferSetSpec(omit=("x",))


@pytest.mark.parametrize(
    ("transfer_set", "error"),
    [
        ({"omit": ("3", "x")}, UnknownClass),
        ({"only": ("x",)}, UnknownClass),
        ({"omit": ("3",), "only": ("7",)}, OmitAndOnly),
        ({"omit": DIGITS}, EmptyTransferSet),
        ({"share": 0.004}, EmptyTransferSet),
        ({"label_share": 0.0}, NoLabelsLeft),
        ({"share": 0.1, "label_share": 0.04}, NoLabelsLeft),
    ],
)
def test_a_transfer_set_that_cannot_be_drawn_is_refused_with_a_remedy(
    transfer_set: dict[str, object], error: type[DistillationError]
) -> None:
    spec = distillation_spec(transfer_set=TransferSetSpec.model_validate(transfer_set))
    with pytest.raises(error) as refusal:
        check(spec, KnownThings())
    assert refusal.value.remedy


@pytest.mark.parametrize(
    "transfer_set",
    [
        {"omit": ("3",)},
        {"only": ("7", "8")},
        {"share": 0.01},
        {"label_share": 0.01},
        {"views": 4, "jitter_px": 2, "flip": True},
    ],
)
def test_a_transfer_set_that_lacks_something_passes(transfer_set: dict[str, object]) -> None:
    check(distillation_spec(transfer_set=TransferSetSpec.model_validate(transfer_set)), KnownThings())


@pytest.mark.parametrize(
    ("transfer_set", "error"),
    [({"omit": ("3",), "only": ("7",)}, OmitAndOnly), ({"label_share": 0.0}, NoLabelsLeft)],
)
def test_what_is_plain_from_the_order_is_refused_before_the_dataset_is_made(
    transfer_set: dict[str, object], error: type[DistillationError]
) -> None:
    spec = distillation_spec(transfer_set=TransferSetSpec.model_validate(transfer_set))
    with pytest.raises(error):
        check(spec, KnownThings(dataset_view(None, builtin=True)))


def test_classes_of_images_without_labels_cannot_be_left_out() -> None:
    unlabelled: DatasetManifest = dataset_manifest(labelled=False)
    with pytest.raises(LabelsMissing, match="'digits' has no labels, which `omit`"):
        check_transfer_set(distillation_spec(transfer_set=TransferSetSpec(omit=("3",))), unlabelled)


@pytest.mark.parametrize(
    "spec",
    [
        SweepSpec(name="s", teacher="big", dataset="digits", transfer_set=UNKNOWN),
        SelfDistillationSpec(name="s", dataset="digits", transfer_set=UNKNOWN),
    ],
)
def test_every_kind_that_draws_a_transfer_set_refuses_one_that_cannot_be(spec: JobSpec) -> None:
    with pytest.raises(UnknownClass, match="'x'"):
        check(spec, KnownThings())


@pytest.mark.parametrize("hard_weight", [0.0, 0.5])
def test_a_sweep_needs_labels_for_its_untaught_twin_whatever_the_hard_weight(hard_weight: float) -> None:
    spec = SweepSpec(
        name="s",
        teacher="big",
        dataset="digits",
        hard_weights=FloatRange(values=(0.0, hard_weight) if hard_weight else (0.0,)),
        transfer_set=TransferSetSpec(label_share=0.0),
    )
    with pytest.raises(NoLabelsLeft, match="untaught twin"):
        check(spec, KnownThings())


def test_a_job_that_needs_no_labels_may_use_none() -> None:
    spec = distillation_spec(transfer_set=TransferSetSpec(label_share=0.0))
    check_transfer_set(spec, dataset_manifest())


LIVE = Asking(live=True)
CHOICE = TransferSetSpec(choose=Choice(share=0.5))


@pytest.mark.parametrize(
    "spec",
    [
        SweepSpec(name="s", teacher="big", dataset="digits", asking=LIVE),
        SpecialistsSpec(
            name="s", generalist="big", dataset="digits", plan=SpecialistPlan(size=4), asking=LIVE
        ),
        TransferSetJobSpec(name="s", teacher="big", dataset="digits", asking=LIVE),
    ],
)
def test_a_kind_that_needs_the_whole_set_before_it_goes_on_cannot_ask_live(spec: JobSpec) -> None:
    with pytest.raises(AskingImpossible, match=f"'{spec.kind}' needs the whole transfer set") as refusal:
        check(spec, KnownThings())
    assert "distillation" in refusal.value.remedy


def test_a_distillation_asks_live_by_itself_or_spreads_its_questions_but_not_both() -> None:
    for asking in (LIVE, Asking(tasks=8)):
        check(distillation_spec(asking=asking), KnownThings())
    with pytest.raises(AskingImpossible, match=r"`asking\.tasks` is 8"):
        check(distillation_spec(asking=Asking(live=True, tasks=8)), KnownThings())


@pytest.mark.parametrize(
    "spec",
    [
        SpecialistsSpec(
            name="s", generalist="big", dataset="digits", plan=SpecialistPlan(size=4), transfer_set=CHOICE
        ),
        SelfDistillationSpec(name="s", dataset="digits", transfer_set=CHOICE),
    ],
)
def test_images_cannot_be_chosen_where_shares_must_be_natural_or_nobody_can_be_asked(spec: JobSpec) -> None:
    with pytest.raises(AskingImpossible, match="`choose`"):
        check(spec, KnownThings())


def test_images_may_be_chosen_for_a_student_a_sweep_or_a_set_but_not_none_of_them() -> None:
    for spec in (
        distillation_spec(transfer_set=CHOICE),
        SweepSpec(name="s", teacher="big", dataset="digits", transfer_set=CHOICE),
        TransferSetJobSpec(name="s", teacher="big", dataset="digits", transfer_set=CHOICE),
    ):
        check(spec, KnownThings())
    none_left = TransferSetSpec(choose=Choice(share=0.001))
    with pytest.raises(EmptyTransferSet, match=r"choice of 0\.001"):
        check(
            TransferSetJobSpec(name="s", teacher="big", dataset="digits", transfer_set=none_left),
            KnownThings(),
        )
