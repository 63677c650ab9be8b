"""A key limiter with clocks that the test moves, and a stand-in for the Redis that it tells."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from services.gateway.access.limits import KeyLimiter
from shared.adapters.redis_limits import Left, Spent, Standing
from shared.adapters.web.access import Caller
from shared.contracts.keys import KeyLimits, Scope
from shared.errors import JobStoreUnavailable, QuotaExceeded, RateExceeded

DAY_S = 86_400
NOON = 20_000 * DAY_S + DAY_S / 2


class Clock:
    """Seconds, as the test says."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class Shared:
    """Where processes tell: a list of what was told, and an answer that the test gives."""

    def __init__(self) -> None:
        self.told: list[Spent] = []
        self.left = Left(0.0, 1, 0.0, 0.0)
        self.time_s = NOON
        self.answers = asyncio.Event()
        self.answers.set()
        self.fails = False
        self.raises: list[Exception] = []
        """What is raised by the next calls, in place of an answer."""
        self.closed = False

    async def settle(self, spent: Sequence[Spent]) -> Standing:
        await self.answers.wait()
        if self.raises:
            raise self.raises.pop(0)
        if self.fails:
            raise JobStoreUnavailable("gone")
        self.told += spent
        return Standing(self.time_s, (self.left,) * len(spent))

    async def close(self) -> None:
        self.closed = True


class Process:
    """A limiter with all that it was given."""

    def __init__(self, processes: int = 2) -> None:
        self.shared = Shared()
        self.now = Clock(100.0)
        self.wall = Clock(NOON)
        self.limiter = KeyLimiter(self.shared, processes, monotonic=self.now, wall=self.wall)

    def admitted(self, caller: Caller, most: int = 1000) -> int:
        for count in range(most):
            try:
                self.limiter.take(caller, 1)
            except (RateExceeded, QuotaExceeded):
                return count
        return most

    async def told(self, most: int) -> list[Spent]:
        await until(lambda: len(self.shared.told) >= most)
        await asyncio.sleep(0.01)  # in which the answer arrives
        return self.shared.told


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def caller(name: str = "k", **limits: object) -> Caller:
    return Caller("ann", name * 12, frozenset({Scope.PREDICT}), KeyLimits.model_validate(limits))


def run(test: Callable[[Process], Awaitable[None]], processes: int = 2) -> None:
    """Run a test in an event loop, with a process that is closed behind it."""

    async def going() -> None:
        process = Process(processes)
        await test(process)
        await process.limiter.close()
        assert process.shared.closed

    asyncio.run(going())
