"""A difference between two treatments of the same seeds, with its confidence interval."""

import statistics
from collections.abc import Sequence


def paired_interval(these: Sequence[float], those: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of these minus those and its 95 % interval by Student's t over the pairs.

    Raises:
        ValueError: there are fewer than two pairs, or they do not pair up.
    """
    # scipy comes with the extra `worker`; listing experiments needs none of it.
    from scipy.stats import t

    differences = [a - b for a, b in zip(these, those, strict=True)]
    if len(differences) < 2:
        raise ValueError("an interval needs at least two pairs")
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    reach = float(t.ppf(0.975, len(differences) - 1)) * error
    return mean, mean - reach, mean + reach
