"""What one process may admit for one key, by a clock that the test moves."""

import pytest

from services.gateway.access.allowance import Today, Tokens, share
from shared.adapters.redis_limits import SHARES_S


def admitted(tokens: Tokens, now: float, cost: float = 1, most: int = 10_000) -> int:
    """Ask until it is refused; return how often it was not."""
    for count in range(most):
        if tokens.missing_s(cost, now) > 0:
            return count
        tokens.spend(cost)
    return most


@pytest.mark.parametrize(
    ("total", "processes", "expected"),
    [(10, 1, 10), (10, 2, 5), (1, 2, 1), (1.5, 2, 1), (0.5, 2, 0.5), (0, 2, 0), (-4, 2, -2)],
)
def test_a_share_is_a_part_but_one_whole_request_where_there_is_one(total, processes, expected):
    assert share(total, processes) == expected


def test_a_new_bucket_is_full_and_shared_by_the_processes_of_the_port():
    assert admitted(Tokens(10, 40, 1, 0.0), 0.0) == 40
    assert admitted(Tokens(10, 40, 2, 0.0), 0.0) == 20


def test_tokens_come_back_at_the_share_of_the_rate_and_no_more_than_the_bucket_holds():
    tokens = Tokens(10, 40, 2, 0.0)
    admitted(tokens, 0.0)
    assert admitted(tokens, 1.0) == 5
    assert admitted(tokens, 1000.0) == 20


def test_a_bucket_smaller_than_the_processes_still_admits_one():
    assert admitted(Tokens(0.5, 1, 4, 0.0), 0.0) == 1


def test_what_is_refused_is_covered_after_the_time_that_was_told_and_not_before():
    tokens = Tokens(4, 8, 1, 0.0)
    admitted(tokens, 0.0)
    wait_s = tokens.missing_s(1, 0.0)
    assert wait_s == pytest.approx(0.25)
    assert tokens.missing_s(1, 0.99 * wait_s) > 0
    assert tokens.missing_s(1, wait_s) == 0


def test_a_refusal_takes_nothing():
    tokens = Tokens(1, 1, 1, 0.0)
    tokens.spend(1)
    for _ in range(100):
        assert tokens.missing_s(1, 0.5) == pytest.approx(0.5)


def test_a_request_larger_than_the_bucket_is_covered_when_it_is_full_and_paid_for_afterwards():
    tokens = Tokens(2, 4, 1, 0.0)
    assert tokens.missing_s(10, 0.0) == 0
    tokens.spend(10)
    assert tokens.missing_s(1, 0.0) == pytest.approx(3.5)
    assert tokens.missing_s(10, 0.0) == pytest.approx(5)


def test_a_request_that_costs_some_needs_as_many():
    tokens = Tokens(2, 10, 1, 0.0)
    tokens.spend(7)
    assert tokens.missing_s(3, 0.0) == 0
    assert tokens.missing_s(4, 0.0) == pytest.approx(0.5)


def test_what_all_have_left_is_shared_and_what_was_spent_while_it_was_told_is_not_forgotten():
    tokens = Tokens(10, 100, 2, 0.0)
    tokens.spend(20)
    assert tokens.tell(0.0) == 20
    tokens.spend(3)
    tokens.told(60, 4, 0.0)
    assert admitted(tokens, 0.0) == 60 / 4 - 3
    assert tokens.tell(0.0) == 60 / 4


def test_a_process_that_is_alone_with_a_key_has_all_of_it():
    tokens = Tokens(10, 100, 2, 0.0)
    tokens.tell(0.0)
    tokens.told(100, 1, 0.0)
    assert admitted(tokens, 0.0) == 100
    assert admitted(tokens, 1.0) == 10


def test_a_debt_of_all_holds_everybody_back_for_as_long_as_it_takes_to_pay():
    tokens = Tokens(10, 20, 2, 0.0)
    tokens.tell(0.0)
    tokens.told(-5, 2, 0.0)
    assert tokens.missing_s(1, 0.0) == pytest.approx(0.6)


def test_the_time_to_wait_counts_what_the_others_leave():
    tokens = Tokens(10, 20, 2, 0.0)
    tokens.tell(0.0)
    tokens.told(0, 2, 0.0)
    assert tokens.missing_s(1, 0.0) == pytest.approx(0.1), "the others may leave it all"
    assert tokens.missing_s(3, 0.0) == pytest.approx(0.6), "3 of 6 are a half"
    assert tokens.missing_s(1, 0.04) == pytest.approx(0.06)


def test_what_is_in_the_bucket_of_all_is_waited_for_no_longer_than_for_news():
    tokens = Tokens(1, 10, 2, 0.0)
    tokens.tell(0.0)
    tokens.told(10, 2, 0.0)
    assert admitted(tokens, 0.0) == 5
    assert 0 < tokens.missing_s(1, 0.0) <= 0.001


def test_what_was_not_told_is_told_the_next_time():
    tokens = Tokens(10, 100, 1, 0.0)
    tokens.spend(30)
    assert tokens.tell(0.0) == 30
    tokens.not_told()
    tokens.spend(5)
    assert tokens.tell(0.0) == 35
    tokens.told(65, 1, 0.0)
    assert tokens.tell(0.0) == 0


def test_what_has_grown_again_in_a_long_silence_is_not_held_against_anybody():
    tokens = Tokens(10, 100, 1, 0.0)
    tokens.spend(80)
    assert tokens.tell(5.0) == pytest.approx(30)
    tokens.not_told()
    assert tokens.tell(60.0) == 0


def test_a_debt_is_told_whole():
    tokens = Tokens(10, 20, 2, 0.0)
    tokens.spend(50)
    assert tokens.tell(0.0) == 50


def test_without_news_a_process_goes_on_with_the_share_of_one_of_all_that_may_be_there():
    tokens = Tokens(10, 100, 2, 0.0)
    tokens.tell(0.0)
    tokens.told(100, 1, 0.0)
    tokens.alone(2, 0.0)
    tokens.alone(2, 0.0)
    assert admitted(tokens, 0.0) == 50
    assert admitted(tokens, 1.0) == 5
    assert tokens.missing_s(1, 1.0) == pytest.approx(0.2)


def test_a_process_that_knows_of_more_others_than_share_its_port_stays_with_that():
    tokens = Tokens(10, 100, 2, 0.0)
    tokens.tell(0.0)
    tokens.told(100, 10, 0.0)
    tokens.alone(2, 0.0)
    assert admitted(tokens, 0.0) == 10


def test_what_was_held_at_the_moment_of_being_alone_is_kept_up_to_the_share():
    tokens = Tokens(10, 100, 1, 0.0)
    tokens.spend(90)
    tokens.alone(2, 0.0)
    assert admitted(tokens, 0.0) == 10


def test_what_was_spent_in_a_long_silence_of_the_others_is_not_taken_twice():
    tokens = Tokens(10, 40, 2, 0.0)
    tokens.tell(0.0)
    for second in range(10):
        tokens.spend(5)
        tokens.missing_s(1, second + 1.0)
    tokens.told(40, 2, 10.0)
    assert admitted(tokens, 10.0) == 20


def test_before_a_part_of_the_day_is_granted_a_few_are_admitted():
    assert Today(1000, 2, day=7).covers(25, 7, 0.0)
    assert not Today(1000, 2, day=7).covers(26, 7, 0.0)
    assert Today(3, 2, day=7).covers(1, 7, 0.0)


def test_a_day_is_counted_and_begins_anew():
    today = Today(40, 2, day=7)
    today.spend(1)
    assert not today.covers(1, 7, 0.0)
    assert today.tell() == 1
    today.told(5, 20, 7, 0.0)
    assert today.covers(20, 7, 0.0)
    assert not today.covers(21, 7, 0.0)
    today.spend(20)
    assert not today.covers(1, 7, 0.0)
    assert today.covers(1, 8, 0.0)
    assert today.tell() == 0, "nothing was spent today"


def test_of_a_day_what_was_granted_lapses_for_who_asks_no_more():
    today = Today(1000, 1, day=7)
    today.tell()
    today.told(0, 500, 7, now=10.0)
    assert today.covers(500, 7, 10 + SHARES_S)
    assert not today.covers(51, 7, 10.001 + SHARES_S)
    assert today.covers(50, 7, 10.001 + SHARES_S)


def test_of_a_day_what_was_spent_while_it_was_told_is_not_forgotten():
    today = Today(100, 1, day=7)
    today.spend(2)
    assert today.tell() == 2
    today.spend(3)
    today.told(2, 8, 7, 0.0)
    assert today.covers(5, 7, 0.0)
    assert not today.covers(6, 7, 0.0)
    assert today.tell() == 3


def test_of_a_day_what_was_not_told_is_told_again_but_not_to_the_next_day():
    today = Today(10, 1, day=7)
    today.spend(2)
    today.tell()
    today.not_told(7)
    assert today.tell() == 2
    today.covers(1, 8, 0.0)
    today.not_told(7)
    assert today.tell() == 0


def test_the_day_is_the_one_of_those_who_share():
    today = Today(10, 1, day=7)
    today.spend(10)
    today.tell()
    today.told(4, 3, 8, 0.0)
    assert today.day == 8
    assert today.covers(3, 8, 0.0)


def test_a_day_is_over_once_all_have_nothing_left_and_not_before_that_is_known():
    today = Today(10, 2, day=7)
    today.spend(10)
    assert not today.is_over(1), "not told"
    today.tell()
    today.told(8, 2, 7, 0.0)
    assert not today.is_over(2)
    assert today.is_over(3)
    today.spend(2)
    assert today.is_over(1)
    today.covers(1, 8, 0.0)
    assert not today.is_over(1)


def test_of_a_day_a_process_alone_has_its_share_of_what_was_left_until_tomorrow():
    today = Today(100, 2, day=7)
    today.tell()
    today.told(20, 10, 7, 0.0)
    today.alone()
    today.alone()
    assert today.covers(40, 7, 1000.0), "nobody grants anything now, so nothing lapses"
    assert not today.covers(41, 7, 1000.0)
    today.spend(40)
    today.alone()
    assert not today.covers(1, 7, 1000.0)
    assert today.is_over(1)
    assert today.covers(50, 8, 1000.0)
    assert not today.covers(51, 8, 1000.0)
    today.told(0, 7, 8, 1000.0)
    assert not today.is_over(1)
    assert not today.covers(8, 8, 1000.0)
