"""The largest logits and what stands for the rest."""

import math

import numpy as np
import pytest

from shared.transfer_set.topk import SparseLogits, divergence, keep_top


def rows_of_logits(classes: int = 50) -> np.ndarray:
    z = np.random.default_rng(0).normal(0, 3, (64, classes))
    return z - z.mean(axis=1, keepdims=True)


def softmax(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    e = np.exp((z - z.max(axis=-1, keepdims=True)) / temperature)
    return e / e.sum(axis=-1, keepdims=True)


def test_the_largest_are_kept_largest_first() -> None:
    z = rows_of_logits()
    kept = keep_top(z, 5)
    np.testing.assert_array_equal(kept.classes, np.argsort(-z, axis=1)[:, :5])
    np.testing.assert_array_equal(kept.logits, -np.sort(-z, axis=1)[:, :5].astype(np.float16))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_every_class_that_is_kept_keeps_its_probability(temperature: float) -> None:
    """Up to rounding: 2^-11 of a logit of up to 12 moves a probability by less than a hundredth of itself."""
    z = rows_of_logits()
    kept = keep_top(z, 5, temperature=temperature)
    stored = softmax(kept.dense().astype(np.float64), temperature)
    exact = softmax(z, temperature)
    for soft_targets in (stored, exact):
        assert soft_targets.shape == (64, 50)
    np.testing.assert_allclose(
        np.take_along_axis(stored, kept.classes.astype(np.int64), axis=1),
        np.take_along_axis(exact, kept.classes.astype(np.int64), axis=1),
        rtol=1e-2,
    )


def test_the_rest_is_one_logit_for_all_that_is_left() -> None:
    z = np.log(np.array([[0.5, 0.2, 0.2, 0.06, 0.04]]))
    kept = keep_top(z, 2)
    assert kept.rest[0] == np.float16(math.log(0.3 / 3))
    dense = kept.dense()
    assert sorted(np.unique(dense, return_counts=True)[1].tolist()) == [1, 1, 3]


@pytest.mark.parametrize(("classes", "dtype"), [(65_536, np.uint16), (65_537, np.int32)])
def test_classes_are_numbered_as_small_as_they_can_be(classes: int, dtype: type) -> None:
    z = np.zeros((1, classes))
    z[0, -1] = 1
    kept = keep_top(z, 1)
    assert kept.classes.dtype == dtype
    assert kept.classes[0, 0] == classes - 1


def test_views_and_rows_keep_their_axes() -> None:
    kept = keep_top(rows_of_logits(), 3)
    views = SparseLogits(
        kept.classes.reshape(2, 32, 3), kept.logits.reshape(2, 32, 3), kept.rest.reshape(2, 32), kept.total
    )
    np.testing.assert_array_equal(views.dense().reshape(64, 50), kept.dense())
    np.testing.assert_array_equal(views[1].dense(), kept.dense()[32:])


def test_the_divergence_is_that_of_the_formula() -> None:
    full, stored = rows_of_logits()[:2], rows_of_logits()[2:4]
    p, q = softmax(full, 2.0), softmax(stored, 2.0)
    np.testing.assert_allclose(
        divergence(full, stored, temperature=2.0), (p * np.log(p / q)).sum(axis=1), rtol=1e-12
    )
    np.testing.assert_array_equal(divergence(full, full, temperature=2.0), 0)


def test_more_classes_kept_lose_less() -> None:
    z = rows_of_logits()
    lost = [divergence(z, keep_top(z, kept).dense(), temperature=1.0).mean() for kept in (2, 5, 20, 48)]
    assert lost == sorted(lost, reverse=True)
    assert 0 < lost[-1] < 1e-4
