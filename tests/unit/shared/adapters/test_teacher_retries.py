"""The retry budget and the waits: how much is tried again, and when; how long an answer is waited for."""

import pytest

from shared.adapters.teacher_retries import AnswerTimes, RetryBudget, jittered_s


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_saved_is_spent_at_once_and_then_retries_come_at_the_rate_of_time():
    budget = RetryBudget(Clock(), share=0.2, a_second=2.0, most=3.0)
    assert [budget.wait_s() for _ in range(5)] == [0, 0, 0, 0.5, 1.0]


def test_time_brings_retries_back_and_no_more_than_can_be_saved():
    clock = Clock()
    budget = RetryBudget(clock, a_second=1.0, most=2.0)
    budget.wait_s(), budget.wait_s()
    clock.now += 100
    assert [budget.wait_s() for _ in range(3)] == [0, 0, 1.0]


def test_calls_pay_for_a_fifth_of_themselves():
    budget = RetryBudget(Clock(), share=0.2, a_second=1e-9, most=1.0)
    budget.wait_s()
    free = 0
    for _ in range(100):
        budget.called()
        if budget._saved >= 1:
            assert budget.wait_s() == 0
            free += 1
    assert free == pytest.approx(20, abs=1)


def test_waits_are_drawn_from_nothing_up_to_a_bound_that_doubles_and_ends_at_ten_seconds():
    for times, most in ((1, 0.2), (2, 0.4), (5, 3.2), (7, 10), (1000, 10)):
        waits = [jittered_s(times) for _ in range(300)]
        assert 0 <= min(waits) < 0.1 * most
        assert 0.9 * most < max(waits) <= most


def test_less_is_waited_for_an_answer_once_it_is_known_how_long_they_take():
    times = AnswerTimes(60.0, least_s=1.0, slower=10.0, known_from=3, remembered=3)
    for _ in range(2):
        times.took(0.2)
        assert times.wait_s == 60
    times.took(0.3)
    assert times.wait_s == pytest.approx(3.0)
    for _ in range(3):
        times.took(0.01)
    assert times.wait_s == 1.0
    times.took(9.0)
    assert times.wait_s == 60, "never more than was allowed"


def test_twice_as_long_is_waited_for_each_answer_that_did_not_come_until_one_does():
    times = AnswerTimes(60.0, least_s=5.0, known_from=1)
    times.took(0.1)
    waits = []
    for _ in range(5):
        waits.append(times.wait_s)
        times.ran_out()
    assert waits == [5, 10, 20, 40, 60]
    times.took(0.1)
    assert times.wait_s == 5
