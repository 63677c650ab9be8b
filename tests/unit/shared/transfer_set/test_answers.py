"""What a teacher answered is checked and brought into the form that is stored."""

import numpy as np
import pytest

from shared.contracts.training import TransferSetSpec
from shared.errors import TeacherAnswerInvalid
from shared.transfer_set.answers import encode, thin_out
from shared.transfer_set.format import TransferSetInputs
from shared.transfer_set.topk import divergence, logits_of
from tests.unit.shared.transfer_set.conftest import make_inputs

INPUTS = make_inputs()
SPARSE = make_inputs(spec=TransferSetSpec(top_k=3))


def store(logits: np.ndarray, inputs: TransferSetInputs = INPUTS) -> dict[str, np.ndarray]:
    rows = np.arange(len(logits), dtype=np.int64)
    return encode(logits, inputs, rows=10 * rows, views=rows.astype(np.int32))


def rows_of_logits(offset: float = 0.0) -> np.ndarray:
    z = np.random.default_rng(0).normal(0, 5, (64, 10))
    return z - z.mean(axis=1, keepdims=True) + offset


def test_16_bit_logits_of_zero_mean_are_stored_bit_for_bit() -> None:
    """Their mean, taken again, is that of rounding: up to half a unit in the last place of the largest."""
    answered = rows_of_logits().astype(np.float16)
    assert np.abs(answered.astype(np.float64).mean(axis=1)).max() > 0
    np.testing.assert_array_equal(store(answered)["logits"], answered)


def test_a_mean_that_is_more_than_rounding_is_taken_off() -> None:
    answered = rows_of_logits(offset=0.5).astype(np.float16)
    stored = store(answered)["logits"].astype(np.float64)
    assert np.abs(stored.mean(axis=1)).max() < 0.01
    np.testing.assert_allclose(stored + 0.5, answered, atol=0.01)


def test_wider_logits_are_rounded_once() -> None:
    answered = rows_of_logits(offset=3.0)
    expected = (answered - answered.mean(axis=1, keepdims=True)).astype(np.float16)
    np.testing.assert_array_equal(store(answered)["logits"], expected)


def test_a_teacher_that_does_not_temper_is_rounded_on_the_scale_of_its_temperature() -> None:
    inputs = make_inputs(tempers=False, temperature=4.0)
    answered = rows_of_logits().astype(np.float16)
    stored = store(answered, inputs)["logits"].astype(np.float64)
    np.testing.assert_allclose(stored / 4, answered, atol=0.02)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(wrong: float) -> None:
    answered = rows_of_logits()
    answered[[3, 7], 2] = wrong
    with pytest.raises(TeacherAnswerInvalid) as refused:
        store(answered)
    assert "not finite: 2 of 64 rows (image 30 in view 3, image 70 in view 7)" in str(refused.value)


def test_of_many_wrong_rows_the_first_are_named() -> None:
    with pytest.raises(TeacherAnswerInvalid, match=r"64 of 64 rows \(image 0 in .*image 40 in view 4, …\)"):
        store(np.full((64, 10), np.nan))


def test_logits_beyond_16_bit_floats_are_refused_by_row() -> None:
    answered = rows_of_logits()
    answered[5, 0] = 1e6
    with pytest.raises(TeacherAnswerInvalid, match=r"9e\+05.*image 50 in view 5"):
        store(answered)


@pytest.mark.parametrize("at_once", [1, 70, 10_000])
def test_rows_are_the_same_however_many_are_worked_on_at_once(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    whole = store(rows_of_logits(), SPARSE)
    monkeypatch.setattr("shared.transfer_set.answers._NUMBERS_AT_ONCE", at_once)
    for name, column in store(rows_of_logits(), SPARSE).items():
        np.testing.assert_array_equal(column, whole[name])


def test_the_error_of_keeping_few_is_stored_with_each_row() -> None:
    answered = rows_of_logits()
    columns = store(answered, SPARSE)
    for place, temperature in enumerate((1.0, 2.0, 4.0, 8.0, 20.0)):
        lost = divergence(answered, logits_of(columns, 10), temperature=temperature)
        np.testing.assert_allclose(columns["error"][:, place], lost, rtol=1e-3, atol=1e-6)
    assert columns["error"].shape == (64, 5)


def test_a_teacher_that_does_not_temper_has_an_error_at_its_temperature_alone() -> None:
    inputs = make_inputs(tempers=False, temperature=4.0, spec=SPARSE.spec)
    assert store(rows_of_logits(), inputs)["error"].shape == (64, 1)


def test_as_many_logits_as_classes_are_all_of_them() -> None:
    assert store(rows_of_logits(), make_inputs(spec=TransferSetSpec(top_k=10))).keys() == {"logits"}


def test_logits_that_were_stored_whole_are_thinned_out_as_if_they_were_answered() -> None:
    answered = rows_of_logits().astype(np.float16)
    for name, column in thin_out(answered, SPARSE).items():
        np.testing.assert_array_equal(column, store(answered, SPARSE)[name])
