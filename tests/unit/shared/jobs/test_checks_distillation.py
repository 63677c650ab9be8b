"""What a distillation asks of its teacher, and what its student may not ask for."""

import pytest

from shared.contracts.specialists import Combination
from shared.contracts.teachers import TeacherDescription
from shared.contracts.training import (
    AttentionTransfer,
    BiasRepair,
    Decoupled,
    Hint,
    Objective,
    Regularisation,
    StudentSpec,
)
from shared.errors import (
    DecoupledNeedsClasses,
    DistillationError,
    InvalidPrior,
    TeacherNotLoadable,
    ViewsBelongToTransferSet,
)
from shared.jobs.checks import check
from shared.jobs.checks.distillation import check_objective
from tests.support.jobs import KnownThings, distillation_spec, teacher_description

HINT = Objective(hint=Hint(weight=1.0, student_layer="hidden.0", teacher_layer="hidden.0"))
ATTENTION = Objective(attention=AttentionTransfer(weight=1.0, layers=(("block.0", "block.0"),)))
TENTHS = (0.1,) * 10


def refused(teacher: TeacherDescription | None = None, **changes: object) -> DistillationError:
    with pytest.raises(DistillationError) as caught:
        check(distillation_spec(**changes), KnownThings(teacher=teacher))
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("option", ["jitter_px", "flip"])
def test_views_of_the_students_own_are_refused_by_name(option: str) -> None:
    rule = Regularisation.model_validate({option: 1 if option == "jitter_px" else True})
    error = refused(student=StudentSpec(regularisation=rule))
    assert isinstance(error, ViewsBelongToTransferSet)
    assert option in str(error)
    assert "transfer_set" in error.remedy


def test_dropout_and_max_norm_of_a_student_pass() -> None:
    rule = Regularisation(input_dropout=0.1, hidden_dropout=0.2, max_norm=3.0)
    check(distillation_spec(student=StudentSpec(regularisation=rule)), KnownThings())


@pytest.mark.parametrize("objective", [HINT, ATTENTION], ids=["hint", "attention"])
def test_layers_are_asked_of_a_teacher_of_one_net_only(objective: Objective) -> None:
    check(distillation_spec(objective=objective), KnownThings())
    error = refused(teacher_description(members=3), objective=objective)
    assert isinstance(error, TeacherNotLoadable)
    assert "ensemble of 3 nets" in str(error)


def test_layers_of_a_generalist_with_specialists_are_refused() -> None:
    teacher = teacher_description(specialists=Combination.model_construct(specialists=(), top_n=1))
    with pytest.raises(TeacherNotLoadable, match="a generalist with 0 specialists"):
        check_objective(HINT, "big", teacher)


def test_decoupled_distillation_of_two_classes_is_refused() -> None:
    objective = Objective(decoupled=Decoupled())
    with pytest.raises(DecoupledNeedsClasses, match="got 2"):
        check_objective(objective, "big", teacher_description(classes=("cat", "dog")))
    check_objective(objective, "big", teacher_description(classes=("ant", "cat", "dog")))


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (TENTHS[:9], "has 9 shares, and there are 10 classes"),
        ((0.05,) * 10, "must sum to 1, got 0.5"),
        ((0.19, *TENTHS[1:]), "got 1.09"),
    ],
)
def test_a_prior_is_one_share_a_class_with_sum_1(prior: tuple[float, ...], words: str) -> None:
    error = refused(bias_repair=BiasRepair(prior=prior))
    assert isinstance(error, InvalidPrior)
    assert words in str(error)


@pytest.mark.parametrize("prior", [None, TENTHS, (0.1003, *TENTHS[1:])])
def test_a_prior_as_people_round_it_passes(prior: tuple[float, ...] | None) -> None:
    check(distillation_spec(bias_repair=BiasRepair(prior=prior)), KnownThings())
