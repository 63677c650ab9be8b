"""How long a client waits, how often and how soon it tries again: a service in trouble is not kept there.

Retries are a share of the calls plus a few a second (Finagle's retry budget); waits grow, with full jitter
(M. Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015).
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Final

_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 10.0


def jittered_s(times: int) -> float:
    """Return the seconds to wait after something went wrong so many times in a row, 1 or more."""
    # Full jitter: many clients that failed together do not come back together.
    return random.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(times - 1, 16)))


class RetryBudget:
    """What may be tried again: a share of all calls, and a few a second however few calls there are.

    Args:
        clock: seconds that only grow.
        share: retries that each call pays for.
        a_second: retries that come with time.
        most: retries that can be saved up; so many there are at the start.
    """

    def __init__(
        self, clock: Callable[[], float], *, share: float = 0.2, a_second: float = 1.0, most: float = 10.0
    ) -> None:
        self._clock = clock
        self._share = share
        self._a_second = a_second
        self._most = most
        self._saved = most
        self._at = clock()

    def called(self) -> None:
        """Take in that something was asked for the first time."""
        self._saved = min(self._most, self._saved + self._share)

    def wait_s(self) -> float:
        """Spend one retry, and return the seconds until it is there; they are longer for each that waits."""
        now = self._clock()
        self._saved = min(self._most, self._saved + (now - self._at) * self._a_second) - 1
        self._at = now
        return max(0.0, -self._saved / self._a_second)


class AnswerTimes:
    """How long an answer is waited for: as long as may be at first, then by what answers took.

    A network that swallows a request or its answer says nothing; whoever waits as long as a slow answer might
    ever take loses a minute each time.

    Args:
        most_s: seconds, however slow answers are.
        least_s: seconds, however quick they are.
        slower: how many times slower than the slowest of late an answer may be.
        known_from: answers that must be known before less than `most_s` is waited.
        remembered: how many answers are of late.
    """

    def __init__(
        self,
        most_s: float,
        *,
        least_s: float = 5.0,
        slower: float = 10.0,
        known_from: int = 20,
        remembered: int = 200,
    ) -> None:
        self._most_s = most_s
        self._least_s = least_s
        self._slower = slower
        self._known_from = known_from
        self._took: deque[float] = deque(maxlen=remembered)
        self._stretched = 1.0

    @property
    def wait_s(self) -> float:
        """Seconds after which the next answer is not waited for any more."""
        if len(self._took) < self._known_from:
            return self._most_s
        return min(self._most_s, self._stretched * max(self._least_s, self._slower * max(self._took)))

    def took(self, seconds: float) -> None:
        """Take in an answer."""
        self._took.append(seconds)
        self._stretched = 1.0

    def ran_out(self) -> None:
        """Take in that an answer did not come: the service may be that slow by now, so wait twice as long."""
        self._stretched *= 2
