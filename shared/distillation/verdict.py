"""Was the student worth a teacher? Taught against untaught, over seeds and test images at once.

Each of S seeds trained both nets, and all answered the same N test images. The gain would come out
differently with other seeds and with other images, so both are random: d[s, n], 1 where only the taught net
is right and -1 where only the untaught one is, is a two-way table without replication,

    d[s, n] = gain + seed[s] + image[n] + rest[s, n].

The variance of its grand mean follows from the mean squares of seeds, images and rest, its degrees of freedom
from Satterthwaite's rule, as in studies with several readers and several cases: Dorfman, Berbaum, Metz
(1992), Investigative Radiology 27; Hillis (2007), Statistics in Medicine 26. A test over images alone would
take one lucky seed for a gain, a test over seeds alone would forget that the test set is small.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import stdtr, stdtrit

from shared.contracts.evaluation import Comparison, SeedComparison, Verdict

DEFAULT_MARGIN = 0.001
_CONFIDENCE = 0.95
_METHOD = (
    "paired difference of right answers; seeds and test images as crossed random effects; t interval with "
    "Satterthwaite degrees of freedom"
)


def compare(
    taught_right: Bool[np.ndarray, "seeds rows"],
    untaught_right: Bool[np.ndarray, "seeds rows"],
    *,
    seeds: Sequence[int],
    agreements: Sequence[float | None],
    margin: float = DEFAULT_MARGIN,
) -> Comparison:
    """Return the gain of taught over untaught nets with its 95 % interval and the verdict.

    BEATS: the whole interval lies above 0. DOES NOT BEAT: its upper end lies below the margin, so a gain
    that would be worth a teacher is excluded. INCONCLUSIVE: neither.

    Args:
        taught_right: whether the taught net of each seed is right on each test image.
        untaught_right: the same of its untaught twin.
        seeds: the seeds, in the order of the rows.
        agreements: for each seed the share of test images on which the taught net names the teacher's class;
            None where no one teacher stands beside them.
        margin: the least gain in accuracy that would be worth a teacher, above 0 (0.001 is 0.1 point).

    Raises:
        ValueError: fewer than two seeds or test images: nothing could be said about the spread.
    """
    difference = taught_right.astype(np.float64) - untaught_right.astype(np.float64)
    if min(difference.shape) < 2:
        raise ValueError(f"a comparison needs two seeds and two images at least, got {difference.shape}")
    if np.ptp(difference) == 0:
        gain, interval, p_value, freedom = _of_constant(difference)
    else:
        gain, interval, p_value, freedom = _of_table(difference)
    return Comparison(
        verdict=verdict_of(interval, margin),
        gain=gain,
        interval=interval,
        p_value=p_value,
        degrees_of_freedom=freedom,
        margin=margin,
        method=_METHOD,
        seeds=tuple(
            SeedComparison(
                seed=seed,
                taught_accuracy=float(taught_right[row].mean()),
                untaught_accuracy=float(untaught_right[row].mean()),
                taught_agreement=agreements[row],
            )
            for row, seed in enumerate(seeds)
        ),
    )


def variance_of_mean(difference: Float64[np.ndarray, "seeds rows"]) -> tuple[float, float]:
    """Return the variance of the grand mean over new seeds and images, and its degrees of freedom.

    With mean squares M of seeds, images and rest, the variance is (M_seeds + max(M_images - M_rest, 0)) / SN.
    M_seeds holds the rest's variance too, so it is not let fall below M_rest: three seeds that happen to
    agree must not pass for certainty.
    """
    seeds, rows = difference.shape
    mean = difference.mean()
    of_seed, of_row = difference.mean(1), difference.mean(0)
    rest = difference - of_seed[:, None] - of_row[None, :] + mean
    square_rest = float((rest**2).sum()) / ((seeds - 1) * (rows - 1))
    square_seeds = max(rows * float(((of_seed - mean) ** 2).sum()) / (seeds - 1), square_rest)
    square_rows = seeds * float(((of_row - mean) ** 2).sum()) / (rows - 1)
    total = square_seeds
    spread = square_seeds**2 / (seeds - 1)
    if square_rows > square_rest:
        total += square_rows - square_rest
        spread += square_rows**2 / (rows - 1) + square_rest**2 / ((seeds - 1) * (rows - 1))
    return total / difference.size, total**2 / spread


def _of_table(
    difference: Float64[np.ndarray, "seeds rows"],
) -> tuple[float, tuple[float, float], float, float]:
    gain = float(difference.mean())
    variance, freedom = variance_of_mean(difference)
    error = variance**0.5
    # Student's t; `scipy.stats` says the same and takes a second more to import, in every job's process.
    half = float(stdtrit(freedom, (1 + _CONFIDENCE) / 2)) * error
    p_value = float(2 * stdtr(freedom, -abs(gain) / error))
    return gain, (max(gain - half, -1.0), min(gain + half, 1.0)), p_value, freedom


def _of_constant(
    difference: Float64[np.ndarray, "seeds rows"],
) -> tuple[float, tuple[float, float], float, float]:
    """Return the figures where all differences are equal, in practice all 0: no variance can be estimated.

    That no image out of N behaved otherwise bounds the share of those that do by -log(0.05) / N with 95 %
    confidence (the "rule of three").
    """
    gain, rows = float(difference.mean()), difference.shape[1]
    half = -math.log(1 - _CONFIDENCE) / rows
    p_value = 1.0 if gain == 0 else 2 * 0.5**rows
    return gain, (max(gain - half, -1.0), min(gain + half, 1.0)), p_value, float(rows - 1)


def verdict_of(interval: tuple[float, float], margin: float) -> Verdict:
    """Return the verdict that an interval of a gain means; see `compare`."""
    if interval[0] > 0:
        return Verdict.BEATS
    if interval[1] < margin:
        return Verdict.DOES_NOT_BEAT
    return Verdict.INCONCLUSIVE
