"""The table by number of covering specialists; arXiv:1503.02531, table 4."""

import numpy as np
import pytest

from shared.distillation.coverage import MOST, coverage_table


def test_images_are_counted_by_how_many_specialists_cover_their_true_class():
    labels = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    sets = [(1, 2), (1,)]  # class 1 is covered twice, 2 once, 0 and 3 never
    generalist = np.array([1, 0, 1, 0, 0, 1, 1, 1], bool)
    first = np.array([1, 0, 1, 1, 1, 1, 1, 1], bool)
    second = np.array([1, 0, 1, 1, 0, 0, 1, 1], bool)
    none, once, twice = coverage_table(sets, labels, generalist, np.stack([first, second]))
    assert (none.covering, none.examples, none.generalist_correct, none.changes) == (0, 4, 3, (0, 0))
    assert (once.covering, once.examples, once.generalist_correct, once.changes) == (1, 1, 1, (0, -1))
    assert (twice.covering, twice.examples, twice.generalist_correct, twice.changes) == (2, 3, 1, (2, 1))
    assert twice.relative_change == pytest.approx(1.5)
    assert none.relative_change == 0
    assert sum(row.examples for row in (none, once, twice)) == len(labels)


def test_many_covering_specialists_are_lumped_together():
    sets = [(0,)] * (MOST + 5) + [(1,)] * MOST
    (row,) = coverage_table(sets, np.array([0, 1]), np.zeros(2, bool), np.ones((1, 2), bool))
    assert (row.covering, row.or_more, row.examples) == (MOST, True, 2)
    assert row.relative_change is None
