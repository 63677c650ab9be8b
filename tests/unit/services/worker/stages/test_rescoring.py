"""By how much an answer may differ from what is stored before it is another answer."""

import numpy as np
import pytest

from services.worker.stages.transfer_sets.rescoring import compare, tolerance
from shared.contracts.teachers import Precision
from shared.errors import CachedAnswersDiffer

Z = np.array([[4.0, -1.0, -3.0], [0.2, -0.1, -0.1]])
NUMBERS = np.array([100, 7])
ALL = np.ones(Z.shape, np.bool_)
SHARES: list[tuple[Precision, float]] = [
    ("float32", 4 * 2**-11 + 8 * 2**-11),
    ("float16", 4 * 2**-11 + 8 * 2**-11),
    ("bfloat16", 4 * 2**-11 + 8 * 2**-8),
]


@pytest.mark.parametrize(("precision", "share"), SHARES)
def test_the_tolerance_is_a_share_of_the_largest_logit_and_at_least_of_one(
    precision: Precision, share: float
) -> None:
    np.testing.assert_allclose(tolerance(Z, precision), [4 * share, 1 * share])


@pytest.mark.parametrize(("precision", "share"), SHARES)
@pytest.mark.parametrize("row", [0, 1])
def test_a_difference_within_the_tolerance_passes_and_one_beyond_it_is_named(
    precision: Precision, share: float, row: int
) -> None:
    allowed = share * (4, 1)[row]
    stored = Z.copy()
    stored[row, 1] += 0.999 * allowed
    compare(stored, Z, ALL, NUMBERS, precision)
    stored[row, 1] += 0.002 * allowed
    with pytest.raises(CachedAnswersDiffer) as found:
        compare(stored, Z, ALL, NUMBERS, precision)
    assert found.value.rows == (NUMBERS[row],)
    assert found.value.asked == 2
    assert found.value.largest_difference == pytest.approx(1.001 * allowed, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 6e4])
def test_rounding_to_16_bits_on_both_sides_is_within_the_tolerance_of_every_precision(scale: float) -> None:
    z = np.random.default_rng(0).normal(0, scale / 5, (500, 100))
    answered = (z * (1 + 2**-20)).astype(np.float16).astype(np.float64)
    answered -= answered.mean(axis=1, keepdims=True)
    stored = z.astype(np.float16).astype(np.float64)
    stored -= stored.mean(axis=1, keepdims=True)
    compare(stored.astype(np.float16), answered, np.ones(z.shape, np.bool_), np.arange(500), "float32")


def test_logits_that_are_not_stored_are_not_compared_and_ones_that_are_not_finite_never_agree() -> None:
    stored = Z + np.array([[0, 0, 1.0], [0, 0, 1.0]])
    kept = np.array([[True, True, False], [True, True, False]])
    compare(stored, Z, kept, NUMBERS, "float32")
    wild = Z.copy()
    wild[1, 0] = np.nan
    with pytest.raises(CachedAnswersDiffer) as found:
        compare(Z, wild, kept, NUMBERS, "float32")
    assert found.value.rows == (7,)
