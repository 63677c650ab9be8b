"""Is the new student better than the old one? Two finished nets on the same images, one answer each.

Unlike the verdict of a distillation (`verdict`), which speaks of new seeds as well, this one is about two
files that answer requests: seeds are settled, and images alone are random. What decides is the images that
one of both has right and the other wrong (McNemar 1947, Psychometrika 12). The interval is the adjusted Wald
interval for paired proportions of Bonett and Price (2012), J. Educ. Behav. Stat. 37, 479-488: one is added to
both counts of disagreement, so that it holds its level for few of them, and where there are none.
"""

import numpy as np
from jaxtyping import Bool
from scipy.special import bdtr, ndtri

from shared.contracts.succession import PairedComparison
from shared.distillation.verdict import DEFAULT_MARGIN, verdict_of

_CONFIDENCE = 0.95
_METHOD = (
    "paired difference of right answers over images; adjusted Wald interval of Bonett and Price (2012), p of "
    "McNemar's exact test"
)


def compare_pair(
    new_right: Bool[np.ndarray, " images"],
    old_right: Bool[np.ndarray, " images"],
    *,
    margin: float = DEFAULT_MARGIN,
) -> PairedComparison:
    """Return the gain of a new student over an old one with its 95 % interval, and the verdict.

    BEATS: the whole interval lies above 0. DOES NOT BEAT: its upper end lies below the margin. INCONCLUSIVE:
    neither.

    Args:
        new_right: whether the new student is right on each image.
        old_right: the same of the old one.
        margin: the least gain in accuracy that would be worth a change, above 0 (0.001 is 0.1 point).

    Raises:
        ValueError: there are no images, or not as many of both.
    """
    if new_right.shape != old_right.shape or not new_right.size:
        raise ValueError(f"right answers of both are compared: {new_right.shape}, {old_right.shape}")
    images = new_right.size
    only_new = int((new_right & ~old_right).sum())
    only_old = int((old_right & ~new_right).sum())
    gain, interval = _adjusted_wald(only_new, only_old, images)
    return PairedComparison(
        verdict=verdict_of(interval, margin),
        gain=gain,
        interval=interval,
        p_value=_mcnemar(only_new, only_old),
        margin=margin,
        method=_METHOD,
        images=images,
        old_accuracy=float(old_right.mean()),
        new_accuracy=float(new_right.mean()),
        only_old=only_old,
        only_new=only_new,
    )


def _adjusted_wald(only_new: int, only_old: int, images: int) -> tuple[float, tuple[float, float]]:
    new, old = (only_new + 1) / (images + 2), (only_old + 1) / (images + 2)
    error = ((new + old - (new - old) ** 2) / (images + 2)) ** 0.5
    half = float(ndtri((1 + _CONFIDENCE) / 2)) * error
    middle = new - old
    return (only_new - only_old) / images, (max(middle - half, -1.0), min(middle + half, 1.0))


def _mcnemar(only_new: int, only_old: int) -> float:
    """Return the two-sided p of so uneven a split, where each image is as likely to fall to either side."""
    split = only_new + only_old
    if not split:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_new, only_old), split, 0.5)))
