"""How often and how soon a client tries again, so that a service in trouble is not kept there by its clients.

Retries are a share of the calls plus a few a second (Finagle's retry budget); waits grow, with full jitter
(M. Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015).
"""

import random
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
