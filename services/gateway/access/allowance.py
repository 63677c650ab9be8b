"""What one process may still admit for one key: its share of what the key may ask of all processes.

A bucket of tokens that grows by itself, and a count of the day. What all processes have admitted corrects
both several times a second; without such news they go on by themselves, with its share. Times are in seconds.
"""

import math
from typing import Final

from shared.adapters.redis_limits import SHARES_S

DAY_S: Final = 86_400

_ENOUGH: Final = 1 - 1e-9
"""Of a token that is there but for rounding."""


def share(total: float, processes: int) -> float:
    """Return what one of several processes may have of a total: its part, but one whole where there is one.

    Where each had half a token only, none could ever admit a request.
    """
    return max(total / processes, min(1.0, total))


class Tokens:
    """A bucket: `rate` tokens a second for all processes together, `most` of them at once."""

    def __init__(self, rate: float, most: float, processes: int, now: float) -> None:
        self.rate = rate
        self.most = most
        self._sharing = processes
        self._here = self._most_here
        self._as_of = now
        self._all: float | None = None
        """Tokens of all processes when they were told last, less what was spent here; None without news."""
        self._all_as_of = now
        self._untold = 0.0
        self._telling = 0.0

    @property
    def _most_here(self) -> float:
        return max(1.0, self.most / self._sharing)

    def _grow(self, now: float) -> None:
        grown = self._here + (now - self._as_of) * self.rate / self._sharing
        self._here = min(self._most_here, grown)
        self._as_of = now

    def missing_s(self, cost: float, now: float) -> float:
        """Return after how long a request of this cost is covered; 0 where it is now.

        One that costs more than the bucket holds is covered when the bucket is full.
        """
        self._grow(now)
        needed = min(cost, self._most_here)
        if self._here >= needed * _ENOUGH:
            return 0.0
        if self._all is None:
            return (needed - self._here) * self._sharing / self.rate
        of_all = needed if needed <= 1 else needed * self._sharing
        missing = of_all - self._all - (now - self._all_as_of) * self.rate
        # Where the others have left enough it is here with the next news.
        return max(missing / self.rate, 1e-3)

    def spend(self, cost: float) -> None:
        """Take it, into debt where it must be."""
        self._here -= cost
        self._untold += cost
        if self._all is not None:
            self._all -= cost

    def _still_untold(self, now: float) -> float:
        # What has grown again in a long silence has done so in the bucket of all, too: to subtract it there
        # would take it twice.
        self._grow(now)
        return max(0.0, min(self._untold, self._most_here - self._here))

    def tell(self, now: float) -> float:
        """Return what was spent and not told; `told` or `not_told` follows."""
        self._telling, self._untold = self._still_untold(now), 0.0
        return self._telling

    def told(self, left: float, sharing: int, now: float) -> None:
        """Go on from what all processes have left, less what was spent here since `tell`."""
        self._untold = self._still_untold(now)
        self._sharing = sharing
        self._here = min(self._most_here, share(left, sharing)) - self._untold
        self._as_of = self._all_as_of = now
        self._all = left - self._untold

    def not_told(self) -> None:
        """Keep it for the next time."""
        self._untold += self._telling

    def alone(self, processes: int, now: float) -> None:
        """Go on by oneself, with the share of one of so many processes."""
        self._grow(now)
        self._sharing = max(self._sharing, processes)
        self._here = min(self._here, self._most_here)
        self._all = None


class Today:
    """The count of one day in UTC: `per_day` for all processes together.

    What was admitted too much is never paid back here. So a process holds a part that the others know of, for
    as long as it asks (`SHARES_S`); before it is granted one it may admit a few.
    """

    def __init__(self, per_day: int, processes: int, day: int) -> None:
        self.per_day = per_day
        self._processes = processes
        self._in_advance = max(1.0, 0.05 * per_day / processes)
        self._alone = False
        self._begin(day)

    def _begin(self, day: int) -> None:
        self.day = day
        self._all = float(self.per_day)
        """What all have left, as told last, less what was spent here."""
        self._is_news = False
        self._granted_until = -math.inf
        self._here = share(self._all, self._processes) if self._alone else self._in_advance
        self._untold = 0.0
        self._telling = 0.0

    def covers(self, cost: float, day: int, now: float) -> bool:
        """Tell whether a request of this cost is within what is left of the day."""
        if day != self.day:
            self._begin(day)
        if now > self._granted_until and not self._alone:
            self._here = min(self._here, self._in_advance)
        return self._here >= cost

    def is_over(self, cost: float) -> bool:
        """Tell whether nobody has so much left today; False as long as there is more to hear of it."""
        return self._alone or (self._is_news and self._all < cost)

    def spend(self, cost: float) -> None:
        """Take it, into debt where it must be."""
        self._here -= cost
        self._all -= cost
        self._untold += cost

    def tell(self) -> float:
        """Return what was spent on `day` and not told; `told` or `not_told` follows."""
        self._telling, self._untold = self._untold, 0.0
        return self._telling

    def told(self, used: float, granted: float, day: int, now: float) -> None:
        """Go on from what all processes have used on `day`, with what is granted of the rest."""
        self._alone = False
        if day != self.day:
            self._begin(day)
        self._all = self.per_day - used - self._untold
        self._is_news = True
        self._here = granted - self._untold
        self._granted_until = now + SHARES_S

    def not_told(self, told_of: int) -> None:
        """Keep it for the next time; what was of a day that is over is forgotten."""
        if told_of == self.day:
            self._untold += self._telling

    def alone(self) -> None:
        """Go on by oneself, with the share of one process in what was left when that was known last."""
        if not self._alone:
            self._alone = True
            self._here = share(self._all, self._processes)
