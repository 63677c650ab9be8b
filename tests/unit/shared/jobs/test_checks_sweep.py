import pytest

from shared.contracts.architectures import Mlp
from shared.contracts.specs import FloatRange, SweepSpec
from shared.errors import (
    ClassMismatch,
    DatasetNotFound,
    DistillationError,
    InvalidRange,
    InvalidRequest,
    InvalidTemperature,
    InvalidWeights,
    LabelsMissing,
    TeacherDoesNotTemper,
    TeacherNotFound,
    TooManyTrials,
)
from shared.jobs.checks import check
from shared.jobs.checks.sweep import children_a_network
from tests.support.jobs import DIGITS, KnownThings, dataset_manifest, dataset_view, teacher_description

SPEC = SweepSpec(name="s", teacher="big", dataset="digits")
ARITHMETIC = {"members": 2, "merge": "arithmetic"}


def sweep(**changes: object) -> SweepSpec:
    return SPEC.model_copy(update=changes)


def values(*numbers: float) -> FloatRange:
    return FloatRange(values=numbers)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        sweep(sampler="tpe", temperatures=FloatRange(low=1, high=32, log=True)),
        sweep(soft_weights=values(0.0), hard_weights=values(1.0)),
        sweep(trials=5),
    ],
)
def test_a_sweep_that_can_end_well_passes(spec: SweepSpec) -> None:
    check(spec, KnownThings())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (FloatRange(), "empty: neither"),
        (FloatRange(low=1.0), "empty: neither"),
        (FloatRange(values=()), "empty: `values` lists nothing"),
        (FloatRange(low=2.0, high=2.0), "empty: low is 2 and high is 2"),
        (FloatRange(low=3.0, high=2.0), "empty: low is 3 and high is 2"),
        (FloatRange(low=0.0, high=2.0, log=True), "logarithmic range cannot begin at 0"),
        (FloatRange(values=(1.0, 1.0)), "twice"),
        (FloatRange(values=(1.0,), low=1.0, high=2.0), "not both"),
        (FloatRange(values=(1.0,), log=True), "not both"),
    ],
)
@pytest.mark.parametrize("field", ["temperatures", "soft_weights", "hard_weights"])
def test_a_range_that_holds_nothing_to_choose_from_is_refused_by_its_name(
    field: str, given: FloatRange, words: str
) -> None:
    with pytest.raises(InvalidRange, match=words) as refusal:
        check(sweep(sampler="tpe", **{field: given}), KnownThings())
    assert str(refusal.value).startswith(f"{field}: ")
    assert refusal.value.remedy


def test_a_grid_without_values_is_refused() -> None:
    with pytest.raises(InvalidRange, match="temperatures: a grid needs `values`"):
        check(sweep(temperatures=FloatRange(low=1.0, high=8.0)), KnownThings())


@pytest.mark.parametrize("given", [values(4.0, 0.0), values(-1.0), FloatRange(low=-2.0, high=8.0)])
def test_a_temperature_that_is_not_above_0_is_refused(given: FloatRange) -> None:
    with pytest.raises(InvalidTemperature):
        check(sweep(sampler="tpe", temperatures=given), KnownThings())


@pytest.mark.parametrize(
    "spec",
    [
        sweep(soft_weights=values(-0.5)),
        sweep(hard_weights=values(0.0, -0.5)),
        sweep(soft_weights=values(0.0, 1.0), hard_weights=values(0.0, 1.0)),
        sweep(sampler="tpe", soft_weights=FloatRange(low=0.0, high=1.0)),
    ],
)
def test_weights_below_0_or_both_0_at_one_point_are_refused(spec: SweepSpec) -> None:
    with pytest.raises(InvalidWeights):
        check(spec, KnownThings())


def test_a_grid_of_more_points_than_trials_is_refused_with_how_many_it_has() -> None:
    spec = sweep(hard_weights=values(0.0, 0.1, 0.5, 1.0, 2.0))
    with pytest.raises(TooManyTrials, match="25 points and trials is 20") as refusal:
        check(spec, KnownThings())
    assert "trials to 25" in refusal.value.remedy


def test_more_nets_than_a_sane_number_are_refused() -> None:
    tpe = {"sampler": "tpe", "temperatures": FloatRange(low=1.0, high=8.0)}
    check(sweep(trials=5000, seeds=(0, 1), **tpe), KnownThings())
    with pytest.raises(TooManyTrials, match="10,002 nets"):
        check(sweep(trials=5001, seeds=(0, 1), **tpe), KnownThings())


@pytest.mark.parametrize(
    ("spec", "children"),
    [
        (sweep(temperatures=values(1.0)), 1),
        (sweep(temperatures=values(*range(1, 10))), 1),
        (sweep(temperatures=values(*range(1, 11))), 2),
        (sweep(sampler="tpe", trials=20), 4),
        (sweep(sampler="tpe", trials=5000), 8),
    ],
)
def test_a_networks_trials_are_shared_by_jobs_of_five_at_least_and_eight_jobs_at_most(
    spec: SweepSpec, children: int
) -> None:
    assert children_a_network(spec) == children


def test_a_network_named_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="named twice"):
        check(sweep(networks=(Mlp(), Mlp(hidden_units=(30,)), Mlp())), KnownThings())


def test_an_arithmetic_ensemble_is_refused_for_several_temperatures_and_welcome_at_one() -> None:
    things = KnownThings(teacher=teacher_description(**ARITHMETIC))
    with pytest.raises(TeacherDoesNotTemper):
        check(SPEC, things)
    check(sweep(temperatures=values(4.0)), things)
    check(SPEC, KnownThings(teacher=teacher_description(members=1, merge="arithmetic")))


@pytest.mark.parametrize(
    ("spec", "things", "error"),
    [
        (sweep(dataset="no"), KnownThings(), DatasetNotFound),
        (sweep(teacher="no"), KnownThings(), TeacherNotFound),
        (SPEC, KnownThings(dataset_view(dataset_manifest(labelled=False))), LabelsMissing),
        (SPEC, KnownThings(dataset_view(dataset_manifest(classes=DIGITS[::-1]))), ClassMismatch),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_refused(
    spec: SweepSpec, things: KnownThings, error: type[DistillationError]
) -> None:
    with pytest.raises(error):
        check(spec, things)
