"""Confidence intervals of shares."""

import math

_Z_95 = 1.959963984540054


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927): sound near 0 and 1, unlike the normal one."""
    share, square = right / count, _Z_95**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z_95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    # The ends are 0 and 1 exactly where no and every answer is right; rounding must not say otherwise.
    return (0.0 if right == 0 else middle - half, 1.0 if right == count else middle + half)
