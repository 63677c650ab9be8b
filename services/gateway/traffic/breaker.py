"""Leaves somebody alone who may be away, the longer the more often it failed."""

import random
import time
from collections.abc import Callable
from typing import Final

_FAILURES: Final = 5
"""In a row, after which nobody is asked for a while."""
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 30.0


class Breaker:
    """Whether somebody who may be away is asked: not for a while, after failures in a row; then on trial.

    The trial is one question. If it fails, the wait is twice as long, up to half a minute.

    Args:
        clock: seconds that only grow.
        failures: so many in a row end the asking.
        chance: a number from 0 to 1, drawn anew for each wait, which lasts from half to all of its time: the
            processes of a gateway, which failed together, do not come back together.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        failures: int = _FAILURES,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._failures = failures
        self._chance = chance
        self._in_a_row = 0
        self._waits = 0
        self._until: float | None = None
        self._on_trial = False

    @property
    def closed(self) -> bool:
        """Whether everybody may ask."""
        return self._until is None

    @property
    def able(self) -> bool:
        """Whether a question could be asked now."""
        return self._until is None or not (self._on_trial or self._clock() < self._until)

    def may_ask(self) -> bool:
        """Return whether a question may be asked now. Who was told yes tells how it went, or gives up."""
        if not self.able:
            return False
        self._on_trial = self._until is not None
        return True

    def succeeded(self) -> None:
        """Take in an answer."""
        self._in_a_row = self._waits = 0
        self._until = None
        self._on_trial = False

    def failed(self, retry_after_s: float = 0.0) -> None:
        """Take in that there was none, or none of use; nobody asks before `retry_after_s` after the last."""
        self._in_a_row += 1
        if not self._on_trial and (self._until is not None or self._in_a_row < self._failures):
            return  # not often enough, or asked before it was known to be away
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(self._waits, 16))
        self._until = self._clock() + max(retry_after_s, wait_s * (1 + self._chance()) / 2)
        self._waits += 1
        self._on_trial = False

    def gave_up(self) -> None:
        """Take in that nobody waited for the end."""
        self._on_trial = False
