import pytest
from pydantic import ValidationError

from shared.contracts.specialists import Combination, SpecialistPart
from shared.contracts.specs import SpecialistPlan, SpecialistsSpec, SpecialistTraining
from shared.contracts.training import Regularisation, TransferSetSpec
from shared.errors import (
    InvalidSpecialistPlan,
    InvalidWeights,
    NoLabelsLeft,
    TooManyChildren,
    UnknownClass,
)
from shared.jobs.checks.specialists import check
from tests.support.jobs import DIGITS, KnownThings, dataset_view, teacher_description


def order(**changes: object) -> SpecialistsSpec:
    fields: dict[str, object] = {"plan": SpecialistPlan(sets=4, size=3)}
    return SpecialistsSpec.model_validate(
        {"name": "experts", "generalist": "big", "dataset": "digits", **fields, **changes}
    )


def sets(*names: str) -> SpecialistPlan:
    return SpecialistPlan(classes=tuple(tuple(one) for one in names))


def test_plans_that_can_be_trained_pass():
    check(order(), KnownThings())
    check(order(plan=sets("0123", "3456", "789")), KnownThings())
    check(
        order(training=SpecialistTraining(rest="soft_targets", soft_weight=0, hard_weight=0)), KnownThings()
    )


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (SpecialistPlan(sets=11, size=3), "11 sets are asked for, and there are 10 classes"),
        (SpecialistPlan(sets=4, size=11), "sets of 11 classes"),
        (SpecialistPlan(sets=4, size=10), "left to the dustbin"),
        (sets("01234", "5678"), "in no set of the plan: 9"),
        (sets("0123456789"), "set 1 of the plan has all 10 classes"),
        (sets("01234", "", "56789"), "set 2 of the plan has no class"),
        (sets("01234", "567899"), "set 2 of the plan names a class twice"),
        (sets(*DIGITS, "01"), "11 sets"),
        (SpecialistPlan(classes=()), "0 sets"),
    ],
)
def test_a_plan_that_no_specialists_can_be_trained_for_is_refused(plan: SpecialistPlan, words: str):
    with pytest.raises(InvalidSpecialistPlan, match=words) as refused:
        check(order(plan=plan), KnownThings())
    assert refused.value.remedy


def test_a_class_that_does_not_exist_is_named():
    with pytest.raises(UnknownClass, match="'x'"):
        check(order(plan=sets("01234", "56789x")), KnownThings())


@pytest.mark.parametrize("top_n", [0, -1])
def test_asking_for_none_of_the_generalists_classes_is_refused(top_n: int):
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        order(top_n=top_n)


def test_more_top_classes_than_there_are_are_refused():
    with pytest.raises(InvalidSpecialistPlan, match="top_n is 11"):
        check(order(top_n=11), KnownThings())


@pytest.mark.parametrize(
    "changes",
    [
        {"members": 3},
        {"specialists": Combination(top_n=1, specialists=(SpecialistPart(classes=("1", "7")),))},
    ],
)
def test_a_generalist_of_several_nets_is_refused(changes: dict[str, object]):
    things = KnownThings(teacher=teacher_description(**changes))
    with pytest.raises(InvalidSpecialistPlan, match="copies of their generalist") as refused:
        check(order(), things)
    assert "one net" in refused.value.remedy


def test_a_generalist_that_sees_enlarged_images_is_refused():
    as_they_are = teacher_description().preprocessing
    larger = as_they_are.input.model_copy(update={"height": 2 * as_they_are.input.height})
    enlarging = as_they_are.model_copy(update={"net": larger})
    things = KnownThings(teacher=teacher_description(preprocessing=enlarging))
    with pytest.raises(InvalidSpecialistPlan, match="brought to another size") as refused:
        check(order(), things)
    assert "Distil this teacher" in refused.value.remedy


def test_an_ensemble_cannot_take_its_generalists_name():
    with pytest.raises(InvalidSpecialistPlan, match="replace it"):
        check(order(name="big"), KnownThings())


def test_specialists_that_would_learn_from_nothing_are_refused():
    with pytest.raises(InvalidWeights):
        check(order(training=SpecialistTraining(soft_weight=0, hard_weight=0)), KnownThings())
    with pytest.raises(NoLabelsLeft):
        check(order(transfer_set=TransferSetSpec(label_share=0)), KnownThings())


@pytest.mark.parametrize("built_in_and_never_used", [False, True])
@pytest.mark.parametrize(
    "left_out", [{"omit": ("3",)}, {"only": ("1", "7")}, {"omit": ("3",), "only": ("7",)}]
)
def test_a_transfer_set_that_lacks_classes_is_refused_even_before_the_dataset_is_made(
    left_out: dict[str, tuple[str, ...]], built_in_and_never_used: bool
):
    things = KnownThings(dataset_view(None, builtin=True)) if built_in_and_never_used else KnownThings()
    with pytest.raises(InvalidSpecialistPlan, match=f"transfer_set.{next(iter(left_out))} names") as refused:
        check(order(transfer_set=TransferSetSpec.model_validate(left_out)), things)
    assert "transfer_set.share" in refused.value.remedy


def test_a_transfer_set_of_fewer_images_of_every_class_passes():
    check(order(transfer_set=TransferSetSpec(share=0.5, label_share=0.5)), KnownThings())


@pytest.mark.parametrize("rule", [Regularisation(jitter_px=1), Regularisation(flip=True)])
def test_views_that_the_generalist_did_not_see_are_refused(rule: Regularisation):
    with pytest.raises(InvalidSpecialistPlan, match="other views") as refused:
        check(order(training=SpecialistTraining(regularisation=rule)), KnownThings())
    assert "transfer_set" in refused.value.remedy


def test_more_specialists_than_one_job_may_make_are_refused_before_it_begins():
    things = KnownThings(dataset_view(None), teacher_description(classes=tuple(map(str, range(1000)))))
    with pytest.raises(TooManyChildren, match="1,800"):
        check(order(plan=SpecialistPlan(sets=600, size=5)), things)
