import pytest

from shared.distillation.intervals import wilson_interval


def test_wilson_interval_matches_a_published_example():
    """Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 and 0 of 20."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_wilson_interval_ends_at_1_where_all_are_right():
    low, high = wilson_interval(20, 20)
    assert (round(low, 4), high) == (0.8389, 1.0)
