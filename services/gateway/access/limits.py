"""How much each key may ask for: so many requests a second, and so many a day.

A request never waits for this. Each process admits from its share (`allowance.py`), and tells afterwards, in
the background, what it has admitted: by that, all processes together keep to what a key may, however its
requests are spread. Where Redis does not answer, each goes on with the share of one of GATEWAY_PROCESSES.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from prometheus_client import Counter

from services.gateway.access.allowance import DAY_S, Today, Tokens
from shared.adapters.redis_limits import Left, RedisLimits, Spent, Standing
from shared.adapters.web.access import Caller
from shared.contracts.keys import KeyLimits
from shared.errors import JobStoreUnavailable, QuotaExceeded, RateExceeded

log = logging.getLogger(__name__)

POLL_S: Final = 0.05
"""What was admitted is told this often."""
ALONE_AFTER_S: Final = 0.2
"""Without an answer for this long a process goes on alone: a disk that is slow to sync is no outage."""
RETRY_S: Final = 0.5
"""After Redis did not answer."""

REFUSED: Final = Counter("imago_limited_requests_total", "Requests that a key's limits refused", ["limit"])
_RATE = REFUSED.labels("rate")
_QUOTA = REFUSED.labels("quota")


class SharedLimits(Protocol):
    """Where all processes tell what they have admitted."""

    async def settle(self, spent: Sequence[Spent]) -> Standing:
        """Tell it, and return what is left; raises `JobStoreUnavailable`."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class KeyAllowance:
    """What this process may still admit for one key; of all that, the share of one of so many processes."""

    def __init__(self, key_id: str, limits: KeyLimits, processes: int, now: float, day: int) -> None:
        self.key_id = key_id
        self.limits = limits
        self.tokens: Tokens | None = None
        self.today: Today | None = None
        rate = limits.per_second
        if rate is not None:
            self.tokens = Tokens(rate, limits.burst or max(1.0, rate), processes, now)
        if limits.per_day is not None:
            self.today = Today(limits.per_day, processes, day)

    def spend(self, cost: float) -> None:
        """Take it, into debt where it must be."""
        if self.tokens is not None:
            self.tokens.spend(cost)
        if self.today is not None:
            self.today.spend(cost)

    def tell(self, now: float) -> Spent:
        """Return what was spent and not told."""
        tokens, today = self.tokens, self.today
        return Spent(
            self.key_id,
            None if tokens is None else tokens.rate,
            0.0 if tokens is None else tokens.most,
            0.0 if tokens is None else tokens.tell(now),
            None if today is None else today.per_day,
            0 if today is None else today.day,
            0.0 if today is None else today.tell(),
        )

    def told(self, left: Left, now: float, day: int) -> None:
        """Go on from what all processes have left."""
        if self.tokens is not None:
            self.tokens.told(left.tokens, left.sharing, now)
        if self.today is not None:
            self.today.told(left.used_today, left.granted_today, day, now)

    def not_told(self, spent: Spent) -> None:
        """Keep for the next time what did not arrive."""
        if self.tokens is not None:
            self.tokens.not_told()
        if self.today is not None:
            self.today.not_told(spent.day)

    def alone(self, processes: int, now: float) -> None:
        """Go on by oneself, with the share of one of so many processes."""
        if self.tokens is not None:
            self.tokens.alone(processes, now)
        if self.today is not None:
            self.today.alone()


class KeyLimiter:
    """The limits of all keys in one process; everything on its event loop.

    Args:
        shared: where processes tell each other what they have admitted.
        processes: that share a port, this one among them.
        monotonic: returns seconds that only grow.
        wall: returns Unix time in seconds.
    """

    def __init__(
        self,
        shared: SharedLimits,
        processes: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._shared = shared
        self._processes = processes
        self._now = monotonic
        self._wall = wall
        self._ahead_s = 0.0
        """By which the clock of Redis is ahead of ours: the day is the same in all processes."""
        self._allowances: dict[str, KeyAllowance] = {}
        self._changed: dict[str, KeyAllowance] = {}
        """Of which something was spent since it was told."""
        self._later: dict[str, float] = {}
        """When keys that were refused have something left again, and this is looked up for them."""
        self._wake = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None
        self._is_alone = False
        self._is_closing = False

    def take(self, caller: Caller, cost: int) -> None:
        """Take what a request costs from what its key may ask for.

        Raises:
            RateExceeded: the key asks faster than it may.
            QuotaExceeded: the key has asked as often as it may on one day.
        """
        limits = caller.limits
        if (limits.per_second is None and limits.per_day is None) or caller.key_id is None:
            return
        allowance = self._allowance(caller.key_id, limits)
        now = self._now()
        if allowance.today is not None:
            time_s = self._time()
            if not allowance.today.covers(cost, int(time_s // DAY_S), now):
                _QUOTA.inc()
                # Where other processes have left some it is here with the next news.
                wait_s = DAY_S - time_s % DAY_S if allowance.today.is_over(cost) else POLL_S
                self._look_later(caller.key_id, wait_s)
                raise QuotaExceeded(allowance.today.per_day, wait_s)
        if allowance.tokens is not None:
            wait_s = allowance.tokens.missing_s(cost, now)
            if wait_s > 0:
                _RATE.inc()
                self._look_later(caller.key_id, wait_s)
                raise RateExceeded(allowance.tokens.rate, wait_s)
        self._spend(allowance, cost)

    def charge(self, caller: Caller, cost: int) -> None:
        """Take what a request turned out to cost, into debt where it must be: the next ones wait for that.

        A debt of the rate is paid back as time goes by, one of the day never is: so none is made there once
        it is known that nobody has so much left.

        Raises:
            QuotaExceeded: with this the key would have asked oftener than it may on one day; it is not taken.
        """
        limits = caller.limits
        if (limits.per_second is None and limits.per_day is None) or caller.key_id is None:
            return
        allowance = self._allowance(caller.key_id, limits)
        today = allowance.today
        if today is not None:
            time_s = self._time()
            if not today.covers(cost, int(time_s // DAY_S), self._now()) and today.is_over(cost):
                _QUOTA.inc()
                raise QuotaExceeded(today.per_day, DAY_S - time_s % DAY_S)
        self._spend(allowance, cost)

    async def close(self) -> None:
        """Stop telling; what was admitted in the last moment is told by nobody."""
        # Beside the cancellation, which a client in the middle of a connection may swallow.
        self._is_closing = True
        if self._telling is not None:
            self._telling.cancel()
            with suppress(asyncio.CancelledError):
                await self._telling
        await self._shared.close()

    def _allowance(self, key_id: str, limits: KeyLimits) -> KeyAllowance:
        found = self._allowances.get(key_id)
        if found is not None and (found.limits is limits or found.limits == limits):
            return found
        # A new key, or one whose limits are others now.
        made = KeyAllowance(key_id, limits, self._processes, self._now(), int(self._time() // DAY_S))
        self._allowances[key_id] = made
        return made

    def _spend(self, allowance: KeyAllowance, cost: int) -> None:
        allowance.spend(cost)
        self._changed[allowance.key_id] = allowance
        self._wake.set()
        if self._telling is None and not self._is_closing:
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    def _look_later(self, key_id: str, wait_s: float) -> None:
        # A little later: to come a moment too early would be for nothing.
        due = self._now() + wait_s + POLL_S / 5
        if due < self._later.get(key_id, math.inf) - POLL_S:
            self._later[key_id] = due
            self._wake.set()

    def _time(self) -> float:
        return self._wall() + self._ahead_s

    async def _tell(self) -> None:
        while not self._is_closing:
            await self._something_to_tell()
            now = self._now()
            refused = [key_id for key_id, due in self._later.items() if due <= now]
            for key_id in refused:
                del self._later[key_id]
                self._changed[key_id] = self._allowances[key_id]
            if self._changed:
                changed, self._changed = self._changed, {}
                try:
                    await self._settle(list(changed.values()))
                except Exception as error:
                    # Whatever it is: who would end here would leave all keys with the share of this moment.
                    if not isinstance(error, JobStoreUnavailable):
                        log.exception("limits of keys could not be told")
                    self._go_alone(str(error))
                    self._changed = changed | self._changed
                    await asyncio.sleep(RETRY_S)
            for key_id in refused:
                tokens = self._allowances[key_id].tokens
                # Others may have taken it, and who was refused comes back without asking in between.
                if tokens is not None and (wait_s := tokens.missing_s(1, self._now())) > 0:
                    self._look_later(key_id, wait_s)
            await asyncio.sleep(POLL_S)

    async def _something_to_tell(self) -> None:
        if not self._changed:
            due = min(self._later.values(), default=math.inf) - self._now()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due == math.inf else max(0.0, due)):
                    await self._wake.wait()
        self._wake.clear()

    async def _settle(self, allowances: Sequence[KeyAllowance]) -> None:
        now = self._now()
        spent = [allowance.tell(now) for allowance in allowances]
        too_late = asyncio.get_running_loop().call_later(
            ALONE_AFTER_S, self._go_alone, f"no answer within {1000 * ALONE_AFTER_S:g} ms"
        )
        try:
            standing = await self._shared.settle(spent)
        except Exception:
            for allowance, one in zip(allowances, spent, strict=True):
                allowance.not_told(one)
            raise
        finally:
            too_late.cancel()
        now = self._now()
        self._ahead_s = standing.time_s - self._wall()
        day = int(standing.time_s // DAY_S)
        for allowance, left in zip(allowances, standing.left, strict=True):
            allowance.told(left, now, day)
        if self._is_alone:
            self._is_alone = False
            log.info("limits of keys are shared again")

    def _go_alone(self, reason: str) -> None:
        if not self._is_alone:
            log.warning(
                "limits of keys are not shared: each process counts its part by itself",
                extra={"reason": reason, "processes": self._processes},
            )
        self._is_alone = True
        now = self._now()
        for allowance in self._allowances.values():
            allowance.alone(self._processes, now)


def limits_of(redis_url: str, processes: int) -> KeyLimiter:
    """Return the limits of one of so many processes, which share them by Redis."""
    return KeyLimiter(RedisLimits(redis_url), processes)
