"""Sets of confusable classes; arXiv:1503.02531, section 5.3."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.distillation.clustering import covariance, online_kmeans, specialist_sets

BLOCKS = ((0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11))
"""Every third of twelve classes: a generalist mixes up what lies three apart."""


def confused_logits(*, rows: int = 600, seed: int = 0, unsure: int | None = None) -> NDArray[np.float32]:
    """Logits of a generalist that spreads its belief over the block of the true class.

    The class `unsure` gets no more than a little of it, ever.
    """
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 0.3, (rows, 12))
    for row in range(rows):
        block = list(BLOCKS[generator.integers(3)])
        logits[row, block] += 3 + generator.normal(0, 1.5, 4)
    if unsure is not None:
        logits[:, unsure] -= 2.5
    return logits.astype(np.float32)


def test_the_covariance_is_that_of_the_probabilities():
    logits = confused_logits(rows=50).astype(np.float64)
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    expected = np.cov(probabilities.T, bias=True)
    np.testing.assert_allclose(covariance(logits), expected, atol=1e-12)
    np.testing.assert_allclose(covariance(logits + 100), expected, atol=1e-12)
    # Probabilities sum to 1, so a class's covariances with all classes sum to 0.
    np.testing.assert_allclose(covariance(logits).sum(0), 0, atol=1e-12)


def test_classes_that_are_mixed_up_with_each_other_make_a_set():
    found = specialist_sets(covariance(confused_logits()), sets=3, size=4, seed=0)
    assert sorted(found) == sorted(BLOCKS)


def test_sets_larger_than_their_clusters_overlap():
    found = specialist_sets(covariance(confused_logits()), sets=3, size=6, seed=0)
    assert all(len(set(classes)) == 6 for classes in found)
    assert sum(map(len, found)) > len(set().union(*found)) == 12
    assert {block for block in BLOCKS for classes in found if set(block) <= set(classes)} == set(BLOCKS)


def test_a_class_that_is_never_predicted_with_confidence_is_not_in_every_set():
    found = specialist_sets(covariance(confused_logits(unsure=11)), sets=3, size=5, seed=0)
    assert sum(11 in classes for classes in found) == 1


def test_every_set_has_its_size_even_where_there_are_as_many_sets_as_classes():
    for seed in range(5):
        found = specialist_sets(covariance(confused_logits()), sets=12, size=2, seed=seed)
        assert len(found) == 12
        assert all(len(set(classes)) == 2 for classes in found)


def test_no_two_sets_are_equal_as_their_specialists_would_only_count_twice():
    matrix = covariance(confused_logits(rows=40))
    for seed in range(5):
        for sets, size in ((12, 1), (12, 11), (8, 4)):
            found = specialist_sets(matrix, sets=sets, size=size, seed=seed)
            assert len(set(found)) == sets


def test_the_same_seed_gives_the_same_sets_and_another_may_not():
    matrix = covariance(confused_logits())
    assert specialist_sets(matrix, sets=5, size=3, seed=1) == specialist_sets(matrix, sets=5, size=3, seed=1)
    assert len({specialist_sets(matrix, sets=5, size=3, seed=seed) for seed in range(10)}) > 1


def test_predictions_that_never_differ_still_make_sets():
    found = specialist_sets(covariance(np.zeros((10, 6), np.float32)), sets=3, size=2, seed=0)
    assert [len(classes) for classes in found] == [2, 2, 2]


def test_online_kmeans_ends_on_the_means_of_clusters_that_lie_apart():
    generator = np.random.default_rng(3)
    middles = np.array([[0.0, 0], [10, 0], [0, 10]])
    points = np.concatenate([middle + generator.normal(0, 0.5, (20, 2)) for middle in middles])
    centres = online_kmeans(points, 3, seed=0)
    expected = [points[start : start + 20].mean(0) for start in (0, 20, 40)]
    order = [int(((centres - mean) ** 2).sum(1).argmin()) for mean in expected]
    # Each point came equally often, so a centre is the mean of its points.
    np.testing.assert_allclose(centres[order], expected, atol=1e-9)


@pytest.mark.parametrize(("sets", "size"), [(0, 2), (13, 2), (3, 0), (3, 12)])
def test_more_sets_or_larger_ones_than_there_are_classes_are_refused(sets: int, size: int):
    with pytest.raises(ValueError, match="12"):
        specialist_sets(covariance(confused_logits(rows=20)), sets=sets, size=size, seed=0)
