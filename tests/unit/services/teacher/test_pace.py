"""The pace of a model: how many rows a forward pass should have, and what noise does to that."""

import pytest

from services.teacher.pace import Pace, measured

# 2 ms a call, 1 ms a row up to 8, then the cache is full: 2 ms a row.
CACHED = Pace({1: 0.003, 2: 0.004, 4: 0.006, 8: 0.010, 16: 0.020, 32: 0.042})


@pytest.mark.parametrize(("within_s", "rows"), [(0.0035, 1), (0.005, 2), (0.010, 8), (1.0, 8), (0.001, 1)])
def test_the_most_rows_a_second_within_the_time_and_the_smallest_of_equals(within_s, rows):
    assert CACHED.rows_within(within_s) == rows


def test_times_between_and_beyond_measured_sizes_are_in_proportion():
    assert CACHED.seconds_of(6) == pytest.approx(0.008)
    assert CACHED.seconds_of(64) == pytest.approx(0.084)
    assert CACHED.seconds_of(1) == 0.003


def test_a_size_that_was_measured_while_others_had_the_cores_is_not_given_up():
    disturbed = Pace({1: 0.001, 2: 0.0015, 4: 0.500, 8: 0.004})
    assert disturbed.seconds_of(4) == pytest.approx(2.1 * 0.0015)
    assert disturbed.rows_within(0.005) == 8


def test_one_row_takes_no_longer_than_two():
    assert Pace({1: 0.4, 2: 0.002}).seconds_of(1) == 0.002


def test_faster_batches_are_believed_at_once_and_slower_ones_by_and_by():
    pace = Pace({1: 0.010, 2: 0.020})
    pace.observe(2, 0.012)
    assert pace.seconds_of(2) == 0.012
    pace.observe(2, 0.100)
    assert 0.012 < pace.seconds_of(2) < 0.020
    pace.observe(3, 0.0001)
    assert pace.seconds_of(3) > 0.012


class Passes:
    """Passes that take a millisecond a call and one a row, by their own clock."""

    def __init__(self) -> None:
        self.tried: list[int] = []
        self.now = 0.0

    def __call__(self, rows: int) -> None:
        self.tried.append(rows)
        self.now += 0.001 * (1 + rows)

    def clock(self) -> float:
        return self.now


def test_sizes_are_tried_and_timed_until_one_takes_too_long():
    passes = Passes()
    pace = measured(passes, most_rows=100, longest_s=10.0, clock=passes.clock)
    assert sorted(set(passes.tried)) == [1, 2, 4, 8, 16, 32, 64]
    assert pace.seconds_of(16) == pytest.approx(0.017)
    assert measured(passes, most_rows=100, longest_s=0.006, clock=passes.clock).largest == 8


def test_a_pace_without_one_row_is_none():
    with pytest.raises(ValueError, match="one row"):
        Pace({2: 1.0})
