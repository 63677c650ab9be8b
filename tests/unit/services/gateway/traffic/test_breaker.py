import pytest

from services.gateway.traffic.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker(clock, failures=3, chance=lambda: 1.0)


def fail(breaker, times):
    for _ in range(times):
        assert breaker.may_ask()
        breaker.failed()


def test_everybody_may_ask_until_enough_have_failed_in_a_row(breaker):
    fail(breaker, 2)
    assert breaker.closed
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.closed
    fail(breaker, 1)
    assert not breaker.closed
    assert not breaker.may_ask()


def test_after_the_wait_one_asks_and_the_others_wait_for_how_it_goes(breaker, clock):
    fail(breaker, 3)
    clock.now += 0.499
    assert not breaker.able
    clock.now += 0.002
    assert breaker.able
    assert breaker.may_ask()
    assert not breaker.may_ask()
    breaker.succeeded()
    assert breaker.may_ask()
    assert breaker.may_ask()


def test_each_trial_that_fails_doubles_the_wait_up_to_half_a_minute(breaker, clock):
    fail(breaker, 3)
    waits = []
    for _ in range(9):
        began = clock.now
        while not breaker.able:
            clock.now += 0.125
        waits.append(clock.now - began)
        fail(breaker, 1)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_an_answer_makes_the_next_wait_short_again(breaker, clock):
    fail(breaker, 3)
    clock.now += 1
    fail(breaker, 1)
    clock.now += 1
    assert breaker.may_ask()
    breaker.succeeded()
    fail(breaker, 3)
    clock.now += 0.5
    assert breaker.able


def test_a_trial_that_nobody_waited_for_lets_the_next_one_try(breaker, clock):
    fail(breaker, 3)
    clock.now += 1
    assert breaker.may_ask()
    breaker.gave_up()
    assert breaker.may_ask()


def test_what_was_asked_before_it_was_known_to_be_away_does_not_lengthen_the_wait(breaker, clock):
    for _ in range(8):
        assert breaker.may_ask()
    for _ in range(8):
        breaker.failed()
    clock.now += 0.5
    assert breaker.able


def test_whoever_says_when_to_come_back_is_believed(breaker, clock):
    fail(breaker, 2)
    breaker.failed(retry_after_s=7.0)
    clock.now += 6.9
    assert not breaker.able
    clock.now += 0.2
    assert breaker.able


def test_processes_that_failed_together_do_not_come_back_together(clock):
    soon, later = (Breaker(clock, failures=1, chance=lambda chance=chance: chance) for chance in (0.0, 1.0))
    soon.failed()
    later.failed()
    clock.now += 0.25
    assert (soon.able, later.able) == (True, False)
