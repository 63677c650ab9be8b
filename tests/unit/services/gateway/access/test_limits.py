"""The limits of keys in one process, by clocks that the test moves and a Redis that it stands in for."""

import asyncio

import pytest

from services.gateway.access import limits
from services.gateway.access.limits import REFUSED
from shared.adapters.redis_limits import Left, Spent
from shared.adapters.web.access import ANYBODY
from shared.adapters.web.problems import error_response
from shared.errors import QuotaExceeded, RateExceeded
from tests.support.key_limits import DAY_S, NOON, Process, caller, run, until


def test_a_caller_without_limits_is_never_refused_and_nothing_is_told():
    async def test(process: Process) -> None:
        for one in (ANYBODY, caller(), caller(burst=1), caller(teacher_rows=0)):
            assert process.admitted(one) == 1000
            process.limiter.charge(one, 5)
        assert process.limiter._telling is None

    run(test)


def test_a_key_has_its_share_and_the_refusal_says_when_to_come_back():
    async def test(process: Process) -> None:
        assert process.admitted(caller(per_second=10, burst=40)) == 20
        with pytest.raises(RateExceeded) as refused:
            process.limiter.take(caller(per_second=10, burst=40), 1)
        assert refused.value.retry_after_s == pytest.approx(0.2)
        assert "10 times a second" in str(refused.value)

    run(test)


@pytest.mark.parametrize(("per_second", "at_once"), [(8.0, 8), (0.25, 1)])
def test_left_out_a_burst_is_what_comes_in_one_second_and_one_at_least(per_second: float, at_once: int):
    async def test(process: Process) -> None:
        assert process.admitted(caller(per_second=per_second)) == at_once

    run(test, processes=1)


def test_keys_do_not_share():
    async def test(process: Process) -> None:
        assert process.admitted(caller("a", per_second=4)) == 4
        assert process.admitted(caller("b", per_second=4)) == 4

    run(test, processes=1)


def test_limits_that_were_changed_hold_at_once():
    async def test(process: Process) -> None:
        assert process.admitted(caller(per_second=4)) == 4
        assert process.admitted(caller(per_second=9)) == 9
        assert process.admitted(caller(per_second=9)) == 0, "the same limits, read anew, are the same"

    run(test, processes=1)


def test_a_charge_goes_into_debt_and_the_next_requests_wait_for_it():
    async def test(process: Process) -> None:
        one = caller(per_second=2, burst=4)
        process.limiter.take(one, 1)
        process.limiter.charge(one, 9)
        with pytest.raises(RateExceeded) as refused:
            process.limiter.take(one, 1)
        assert refused.value.retry_after_s == pytest.approx(3.5)
        process.now.at += 3.5
        process.limiter.take(one, 1)

    run(test, processes=1)


def test_a_day_ends_at_midnight_utc():
    async def test(process: Process) -> None:
        one = caller(per_day=60)
        process.shared.left = Left(0.0, 1, 60.0, 0.0)
        assert process.admitted(one) == 3
        with pytest.raises(QuotaExceeded) as early:
            process.limiter.take(one, 1)
        assert early.value.retry_after_s < 1, "nothing is known of the day yet"
        await process.told(1)
        with pytest.raises(QuotaExceeded) as refused:
            process.limiter.take(one, 1)
        assert refused.value.retry_after_s == pytest.approx(DAY_S / 2)
        assert "60 times a day" in str(refused.value)
        process.wall.at += DAY_S / 2
        assert process.admitted(one) == 3

    run(test, processes=1)


def test_images_of_a_request_beyond_the_day_are_refused_and_cost_nothing():
    async def test(process: Process) -> None:
        one = caller(per_second=50, per_day=60)
        process.shared.left = Left(50.0, 1, 50.0, 10.0)
        process.limiter.take(one, 1)
        await process.told(1)
        before = counted("quota")
        for _ in range(2):
            with pytest.raises(QuotaExceeded) as refused:
                process.limiter.charge(one, 11)
        assert refused.value.retry_after_s == pytest.approx(DAY_S / 2)
        assert "60 times a day" in str(refused.value)
        assert counted("quota") == before + 2
        process.limiter.charge(one, 10)
        with pytest.raises(QuotaExceeded):
            process.limiter.charge(one, 1)
        await process.told(2)
        assert [(told.today, told.tokens) for told in process.shared.told] == [(1, 1), (10, 10)]
        process.wall.at += DAY_S / 2
        process.limiter.charge(one, 3)

    run(test, processes=1)


def test_images_that_others_have_left_a_day_for_go_into_debt_until_the_next_news():
    async def test(process: Process) -> None:
        one = caller(per_day=60)
        process.shared.left = Left(0.0, 1, 10.0, 5.0)
        process.limiter.take(one, 1)
        process.limiter.charge(one, 63)  # nothing is known of the day yet
        with pytest.raises(QuotaExceeded):
            process.limiter.take(one, 1)
        await process.told(1)
        process.limiter.charge(one, 50)  # of which 5 are here
        with pytest.raises(QuotaExceeded):
            process.limiter.charge(one, 1)

    run(test, processes=1)


def test_alone_a_process_charges_the_day_up_to_its_share_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "RETRY_S", 0.01)

    async def test(process: Process) -> None:
        one = caller(per_day=61)
        process.shared.fails = True
        process.limiter.take(one, 1)
        await until(lambda: process.limiter._is_alone)
        process.limiter.charge(one, 30)
        with pytest.raises(QuotaExceeded) as refused:
            process.limiter.charge(one, 1)
        assert refused.value.retry_after_s == pytest.approx(DAY_S / 2)

    run(test)


def test_a_request_that_the_day_refuses_costs_no_token_and_the_other_way_round():
    async def test(process: Process) -> None:
        both = caller(per_second=1, burst=3, per_day=40)
        process.limiter.take(both, 1)
        process.limiter.take(both, 1)
        for _ in range(5):
            with pytest.raises(QuotaExceeded):
                process.limiter.take(both, 1)
        process.wall.at += DAY_S / 2
        process.limiter.take(both, 1)
        for _ in range(5):
            with pytest.raises(RateExceeded):
                process.limiter.take(both, 1)
        process.now.at += 1
        process.limiter.take(both, 1)

    run(test, processes=1)


def test_refusals_are_counted_by_the_limit_that_refused():
    async def test(process: Process) -> None:
        before = counted("rate"), counted("quota")
        process.admitted(caller("a", per_second=1))
        process.admitted(caller("b", per_day=1))
        assert (counted("rate") - before[0], counted("quota") - before[1]) == (1, 1)

    run(test, processes=1)


def counted(limit: str) -> float:
    (found,) = (
        sample.value
        for family in REFUSED.collect()
        for sample in family.samples
        if sample.name == "imago_limited_requests_total" and sample.labels == {"limit": limit}
    )
    return found


def test_what_was_admitted_is_told_and_what_all_have_left_is_taken_over():
    async def test(process: Process) -> None:
        one = caller(per_second=10, burst=40, per_day=500)
        process.shared.left = Left(30.0, 1, 11.0, 100.0)
        assert process.admitted(one, most=10) == 10
        (told,) = await process.told(1)
        assert told == Spent("k" * 12, 10, 40, 10, 500, 20_000, 10)
        assert process.admitted(one) == 30
        await process.told(2)
        assert process.shared.told[1].tokens == process.shared.told[1].today == 30

    run(test)


def test_nothing_is_told_of_keys_that_ask_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "POLL_S", 0.001)

    async def test(process: Process) -> None:
        process.shared.left = Left(30.0, 1, 0.0, 0.0)
        process.limiter.take(caller(per_second=10, burst=40), 1)
        await process.told(1)
        await asyncio.sleep(0.05)
        assert len(process.shared.told) == 1

    run(test)


def test_the_day_is_that_of_the_server_whose_clock_all_share():
    async def test(process: Process) -> None:
        process.shared.time_s = NOON + DAY_S
        process.shared.left = Left(0.0, 1, 0.0, 5.0)
        one = caller(per_day=60)
        assert process.admitted(one, most=1) == 1
        await process.told(1)
        assert process.admitted(one) == 5
        await process.told(2)
        assert [told.day for told in process.shared.told] == [20_000, 20_001]

    run(test)


def test_a_server_that_does_not_answer_holds_nobody_up_and_is_told_of_all_afterwards(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(limits, "RETRY_S", 0.01)

    async def test(process: Process) -> None:
        one = caller(per_second=10, burst=40)
        process.shared.left = Left(40.0, 1, 0.0, 0.0)
        process.limiter.take(one, 1)
        await process.told(1)
        process.shared.answers.clear()
        process.limiter.take(one, 1)
        await until(lambda: "no answer within" in caplog.text or process.limiter._is_alone)
        assert process.admitted(one) == 20, "half of what both may have"
        process.shared.fails = True
        process.shared.answers.set()
        await asyncio.sleep(0.03)
        process.now.at += 1
        assert process.admitted(one) == 5, "at half the rate"
        process.shared.fails = False
        process.shared.left = Left(7.0, 1, 0.0, 0.0)
        await until(lambda: len(process.shared.told) > 1 and not process.limiter._is_alone)
        # 26 in all, of which 5 came back meanwhile; the rest is what the share lacks.
        assert sum(told.tokens for told in process.shared.told[1:]) == pytest.approx(20)
        assert process.admitted(one) == 7

    run(test)


def test_being_alone_is_said_once_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(limits, "RETRY_S", 0.005)
    monkeypatch.setattr(limits, "POLL_S", 0.005)
    caplog.set_level("INFO")

    async def test(process: Process) -> None:
        process.shared.fails = True
        process.limiter.take(caller(per_second=10, burst=40), 1)
        await asyncio.sleep(0.1)
        process.shared.fails = False
        await until(lambda: not process.limiter._is_alone)

    run(test)
    assert [record.getMessage() for record in caplog.records] == [
        "limits of keys are not shared: each process counts its part by itself",
        "limits of keys are shared again",
    ]


def test_an_error_that_nobody_foresaw_is_logged_and_all_is_told_with_the_next_try(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(limits, "RETRY_S", 0.01)
    caplog.set_level("INFO")

    async def test(process: Process) -> None:
        process.shared.raises = [ValueError("an answer of another shape")]
        process.shared.left = Left(7.0, 1, 0.0, 4.0)
        one = caller(per_second=10, burst=40, per_day=60)
        process.limiter.take(one, 1)
        process.limiter.charge(one, 2)
        (told,) = await process.told(1)
        assert (told.tokens, told.today) == (3, 3)
        assert not process.limiter._is_alone
        assert process.admitted(one) == 4

    run(test)
    assert [(record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        ("limits of keys could not be told", True),
        ("limits of keys are not shared: each process counts its part by itself", False),
        ("limits of keys are shared again", False),
    ]
    assert caplog.records[1].reason == "an answer of another shape"  # type: ignore[attr-defined]


def test_the_answer_says_whole_seconds_after_which_it_is_not_refused_again():
    for wait_s, header in ((0.02, "1"), (1.0, "1"), (1.2, "2")):
        assert error_response(RateExceeded(5, wait_s), 429).headers["retry-after"] == header
