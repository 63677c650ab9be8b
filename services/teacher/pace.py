"""How long forward passes of a model take here, by their rows, and so how many rows one should have.

Measured when a model is new and kept up to date by every batch: what is fast on a CPU depends on its caches
and on the model, and no rule of thumb covers a perceptron of 10 MB and a convolutional net of 100 MB of maps.
"""

import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Final

_NEAR: Final = 0.97
"""A size at this share of the best rate is as good, and smaller ones are sooner done."""
_TWICE: Final = 2.1
"""A pass of twice the rows never takes much more than two passes; a longer time was somebody else's."""
_WEIGHT: Final = 0.05
"""Of a new time that is longer than the one known. A shorter one is believed at once."""
_REPEATS: Final = 3
_ENOUGH_S: Final = 0.2
"""A size that has been measured for so long is known."""


class Pace:
    """Seconds of a forward pass by its rows.

    Args:
        seconds: measured, by rows in powers of two from 1 on.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        if 1 not in seconds:
            raise ValueError("a pace starts at one row")
        self._measured = dict(sorted(seconds.items()))
        self._seconds = _smooth(self._measured)

    @property
    def largest(self) -> int:
        """The most rows that were measured."""
        return max(self._seconds)

    def seconds_of(self, rows: int) -> float:
        """Return the seconds that a pass of so many rows takes, between measured sizes by proportion."""
        if rows >= self.largest:
            return self._seconds[self.largest] * rows / self.largest
        upper = next(size for size in self._seconds if size >= rows)
        lower = max(1, upper // 2)
        if upper == lower:
            return self._seconds[1]
        share = (rows - lower) / (upper - lower)
        return self._seconds[lower] + share * (self._seconds[upper] - self._seconds[lower])

    def rows_within(self, seconds: float) -> int:
        """Return the rows of the pass that gets most done a second among those that take no longer.

        One row where even that takes longer. Of sizes that are equally good, the smallest.
        """
        fitting = {rows: rows / took for rows, took in self._seconds.items() if took <= seconds}
        if not fitting:
            return 1
        best = max(fitting.values())
        return min(rows for rows, rate in fitting.items() if rate >= _NEAR * best)

    def observe(self, rows: int, seconds: float) -> None:
        """Take in how long a pass has taken, by the clock that the pace was measured with."""
        size = 1 << (rows.bit_length() - 1)
        if size not in self._measured or rows != size:
            return
        known = self._measured[size]
        self._measured[size] = seconds if seconds < known else known + _WEIGHT * (seconds - known)
        self._seconds = _smooth(self._measured)


def measured(
    forward: Callable[[int], None], *, most_rows: int, longest_s: float, clock: Callable[[], float]
) -> Pace:
    """Run passes of 1, 2, 4 … rows and return how long they take; this also warms the model up.

    Args:
        forward: does one pass of so many rows, and returns when it is done.
        most_rows: the most that will be asked of a pass.
        longest_s: no larger size is tried once a pass takes longer.
        clock: seconds. On a CPU those of the calling thread: what others do on the same cores is no property
            of the model, and should not make its passes shorter.
    """
    seconds: dict[int, float] = {}
    rows = 1
    while rows <= most_rows:
        forward(rows)  # memory is laid out and kernels are chosen now
        began, best = time.perf_counter(), float("inf")
        for _ in range(_REPEATS):
            start = clock()
            forward(rows)
            best = min(best, clock() - start)
            if time.perf_counter() - began > _ENOUGH_S:
                break
        seconds[rows] = best
        if best > longest_s:
            break
        rows *= 2
    return Pace(seconds)


def _smooth(measured: Mapping[int, float]) -> dict[int, float]:
    """Return the times without what cannot be: more rows in less time, or in more than two passes take."""
    smooth = dict(measured)
    sizes = sorted(smooth, reverse=True)
    for larger, smaller in pairwise(sizes):
        smooth[smaller] = min(smooth[smaller], smooth[larger])
    for smaller, larger in pairwise(sizes[::-1]):
        smooth[larger] = min(smooth[larger], _TWICE * smooth[smaller])
    return smooth
