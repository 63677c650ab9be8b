"""The paired interval, by hand."""

import pytest

from experiments.paired import paired_interval


def test_the_interval_is_students_t_over_the_differences():
    # Differences 1, 2, 3: mean 2, deviation 1, standard error 1/√3, t(0.975, 2) = 4.302653.
    mean, low, high = paired_interval((2.0, 4.0, 6.0), (1.0, 2.0, 3.0))
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_one_pair_tells_nothing():
    with pytest.raises(ValueError, match="two pairs"):
        paired_interval((1.0,), (2.0,))
