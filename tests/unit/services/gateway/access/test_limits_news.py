"""What the processes tell each other of the limits of keys, and when they ask for news by themselves."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from services.gateway.access import limits
from shared.adapters.redis_limits import Left, Spent, Standing
from shared.adapters.web.access import Caller
from shared.errors import QuotaExceeded, RateExceeded
from tests.support.key_limits import DAY_S, Process, caller, run


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "POLL_S", 0.005)


async def settled() -> None:
    """Let the limiter do what it will do without being asked anything."""
    await asyncio.sleep(0.1)


async def refused(process: Process) -> Caller:
    """Spend all that a key has, and what the other process has; it has been told and is refused."""
    one = caller(per_second=10, burst=2)
    process.shared.left = Left(0.0, 2, 0.0, 0.0)
    process.admitted(one)
    await process.told(1)
    with pytest.raises(RateExceeded):
        process.limiter.take(one, 1)
    return one


def test_of_a_key_with_one_limit_nothing_is_told_of_the_other():
    async def test(process: Process) -> None:
        process.limiter.take(caller("r", per_second=10, burst=40), 3)
        process.limiter.take(caller("d", per_day=500), 3)
        assert sorted(await process.told(2)) == [
            Spent("d" * 12, None, 0.0, 0.0, 500, 20_000, 3.0),
            Spent("r" * 12, 10.0, 40.0, 3.0, None, 0, 0.0),
        ]

    run(test, processes=1)


def test_news_for_a_key_that_was_refused_come_without_its_asking_again_and_at_its_time():
    async def test(process: Process) -> None:
        one = await refused(process)
        await settled()
        assert len(process.shared.told) == 1, "a tenth of a second is to go by"
        process.shared.left = Left(1.0, 2, 0.0, 0.0)
        process.now.at += 0.11
        await process.told(2)
        assert process.shared.told[1].tokens == 0
        await settled()
        assert len(process.shared.told) == 2, "there is something left: nobody needs to know more"
        process.limiter.take(one, 1)

    run(test)


def test_news_go_on_for_as_long_as_others_take_it_all():
    async def test(process: Process) -> None:
        await refused(process)
        for already in (2, 3, 4):
            process.now.at += 0.11
            await process.told(already)
            await settled()
            assert len(process.shared.told) == already

    run(test)


def test_a_key_whose_day_is_over_hears_of_the_next_one():
    async def test(process: Process) -> None:
        one, other = caller("a", per_day=60), caller("b", per_second=5)
        process.shared.left = Left(5.0, 1, 60.0, 0.0)
        assert process.admitted(one) == 3
        await process.told(1)
        with pytest.raises(QuotaExceeded):
            process.limiter.take(one, 1)
        process.shared.time_s += DAY_S / 2
        process.wall.at += DAY_S / 2
        process.shared.left = Left(5.0, 1, 0.0, 20.0)
        process.now.at += DAY_S / 2 + 1
        told = await process.told(2)
        assert told[1].key_id == "a" * 12
        await settled()
        process.limiter.take(other, 1)
        assert (await process.told(3))[2].key_id == "b" * 12, "the telling goes on"

    run(test, processes=1)


def test_closing_ends_a_telling_that_does_not_mind_being_cancelled():
    """A client in the middle of a connection may swallow a cancellation."""

    async def test(process: Process) -> None:
        inside = asyncio.Event()

        async def settle(spent: Sequence[Spent]) -> Standing:
            inside.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            return Standing(process.shared.time_s, (process.shared.left,) * len(spent))

        process.shared.settle = settle  # type: ignore[method-assign]
        process.limiter.take(caller(per_second=10), 1)
        await inside.wait()
        async with asyncio.timeout(10) as limit:
            await process.limiter.close()
        assert not limit.expired()

    run(test)
