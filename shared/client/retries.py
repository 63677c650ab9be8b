"""Whether a call is tried again, and when.

Only what is safe to repeat is: GET, PUT, predictions, and jobs under a key. What never reached the gateway is
tried again whatever it is. A request that timed out is not: its answer would come no sooner.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import httpx

from shared.adapters.teacher_retries import jittered_s
from shared.client.call import Call
from shared.client.errors import DeadlineMissed, GatewayError, GatewayRefused, GatewayUnreachable

PASSING: Final = frozenset({429, 502, 503, 504})
"""Statuses that may be another one soon."""
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_MOST_SAVED: Final = 10.0
"""Retries; so many there are at the start."""
_SHARE: Final = 0.2
"""Of a retry, that each call pays for."""
_A_SECOND: Final = 1.0
"""Retries that come with time, so that few calls may be tried again as well."""
_USELESS: Final = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects)


@dataclass(frozen=True)
class Retries:
    """How a client tries again. Waits have full jitter; all calls of a client share one budget.

    The budget is a fifth of the calls and one a second, ten at the start: a gateway in trouble is not kept
    there by its clients.
    """

    attempts: int = 4
    """Times that a call is sent, at most; 1 for no second."""
    longest_wait_s: float = 30.0
    """A `Retry-After` beyond this is the caller's to wait for."""


RETRIES: Final = Retries()
"""What a client does that was told nothing else."""


class Budget:
    """What all calls of a client may try again; used from several threads.

    Where it is empty a call fails at once. (The worker's `RetryBudget` makes it wait instead: there a job has
    all the time that it needs.)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._saved = _MOST_SAVED
        self._at = clock()

    def called(self) -> None:
        """Take in that something was asked for the first time."""
        with self._lock:
            self._saved = min(_MOST_SAVED, self._saved + _SHARE)

    def take(self) -> bool:
        """Spend one retry; False where there is none."""
        with self._lock:
            now = self._clock()
            self._saved = min(_MOST_SAVED, self._saved + (now - self._at) * _A_SECOND)
            self._at = now
            if self._saved < 1:
                return False
            self._saved -= 1
            return True


class Attempts:
    """The attempts at one call.

    Args:
        call: what is asked.
        retries: how often.
        budget: of all calls.
        request_id: of this one, for errors.
    """

    def __init__(self, call: Call[Any], retries: Retries, budget: Budget, request_id: str) -> None:
        self._call = call
        self._retries = retries
        self._budget = budget
        self._request_id = request_id
        self._failed = 0
        self._ends = None if call.deadline_s is None else time.monotonic() + call.deadline_s
        budget.called()

    def left_s(self) -> float | None:
        """Return the seconds until the deadline, None where there is none; raises `DeadlineMissed`."""
        if self._ends is None:
            return None
        left_s = self._ends - time.monotonic()
        if left_s <= 0:
            self._miss(None)
        return left_s

    def broke(self, error: httpx.RequestError, url: str) -> float:
        """Return the seconds to wait before the next attempt, after one that had no whole answer.

        Raises:
            GatewayUnreachable: there is no next.
            DeadlineMissed: the time is over.
        """
        if isinstance(error, httpx.TimeoutException) and self._is_over():
            self._miss(error)
        again = isinstance(error, _NEVER_SENT) or (
            self._call.may_repeat and not isinstance(error, (*_USELESS, httpx.TimeoutException))
        )
        failed = GatewayUnreachable(url, reason(error), request_id=self._request_id)
        return self._wait_s(failed, 0.0, again=again)

    def refused(self, refusal: GatewayRefused) -> float:
        """Return the seconds to wait before the next attempt, after a refusal; raises it where none comes."""
        if self._call.deadline_s is not None and refusal.code == "deadline-exceeded":
            self._miss(refusal)
        after_s = refusal.retry_after_s
        # The gateway says when waiting helps; what stands before it hardly does.
        passing = refusal.status in PASSING and (after_s is not None or not refusal.is_problem)
        return self._wait_s(refusal, after_s or 0.0, again=passing and self._call.may_repeat)

    def _wait_s(self, error: GatewayError, least_s: float, *, again: bool) -> float:
        self._failed += 1
        if not again or self._failed >= self._retries.attempts:
            raise error
        wait_s = least_s + jittered_s(self._failed)
        late = self._ends is not None and time.monotonic() + wait_s >= self._ends
        if late or wait_s > self._retries.longest_wait_s or not self._budget.take():
            raise error
        return wait_s

    def _is_over(self) -> bool:
        # A time-out is counted from the last byte: it ends a little before or after the deadline.
        return self._ends is not None and time.monotonic() >= self._ends - 0.05

    def _miss(self, cause: Exception | None) -> NoReturn:
        assert self._call.deadline_s is not None
        raise DeadlineMissed(self._call.deadline_s, request_id=self._request_id) from cause


def reason(error: Exception) -> str:
    """Return an error in words."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
