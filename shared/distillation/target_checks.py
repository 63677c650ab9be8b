"""What a teacher's answers are worth as soft targets: over-confident, label-smoothed, and which T suits them.

The rule for T: the median image's largest probability should be 0.5 + 0.8 / C for C classes, 0.9 for two and
0.58 for ten. Above one half the target still names its class; what lies beyond it is left for the others, and
with few classes little is needed to tell them apart. It is a start for a sweep, not its end.
"""

import math
from typing import Final

import numpy as np
from jaxtyping import Float

from shared.contracts.findings import Finding
from shared.distillation.findings import ok, skipped, warning

Logits = Float[np.ndarray, "rows classes"]

OVERCONFIDENT_NATS: Final = 0.05
"""Median entropy below which soft targets say little more than labels: the largest probability is then about
0.99, and a hundredth is left for all that the teacher knows of the other classes."""

FLAT_REST: Final = 0.8
"""Median entropy of the other classes' shares, over that of equal shares, from which they tell little apart;
of the surer half of the images. A perceptron on 5,000 digits had 0.22 to 0.53 after 3, 30 and 100 epochs on
labels as they are, and 0.86 to 0.98 after 30 and 100 epochs on labels smoothed by 0.05, 0.1 and 0.2."""

PLATEAU: Final[tuple[float, float]] = (0.5, 0.995)
"""Between which nine in ten of the largest probabilities end for such a net: smoothing by eps draws them to
1 - eps + eps / C. Above it a net is over-confident, whatever it learned; below, it is sure of nothing."""

HIGHEST_T: Final = 100.0
"""Beyond which no T is proposed; the paper and what followed it go to about 20."""


def worth_teaching(classes: int) -> float:
    """Return the largest probability that the median image's target should have: the rule for T."""
    return 0.5 + 0.8 / classes


def suggested_temperature(logits: Logits) -> float:
    """Return the T of the rule, from 1 to `HIGHEST_T` and to two digits; 1 where the targets are soft enough.

    Args:
        logits: of images like those to be taught on, at T = 1.
    """
    wanted = worth_teaching(logits.shape[1])
    low, high = 1.0, HIGHEST_T
    if _largest(logits, low) <= wanted:
        return low
    if _largest(logits, high) >= wanted:
        return high
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        if _largest(logits, middle) > wanted:
            low = middle
        else:
            high = middle
    return float(f"{high:.2g}")


def median_entropy(logits: Logits, temperature: float = 1.0) -> float:
    """Return the median entropy of the targets at T, in nats."""
    return float(np.median(_entropy(_softmax(logits / temperature))))


def check_confidence(logits: Logits, *, temperature: float = 1.0) -> Finding:
    """Say whether the targets at T are as good as hard labels, and which T would teach more.

    Args:
        logits: at T = 1.
        temperature: T of the targets that are judged: a job's own, or 1.
    """
    entropy = median_entropy(logits, temperature)
    told = (
        f"at T = {temperature:g} the median target has {entropy:.3g} nats of entropy, and its largest "
        f"probability is {_largest(logits, temperature):.3f}"
    )
    wanted = suggested_temperature(logits)
    if entropy < OVERCONFIDENT_NATS and wanted > temperature:
        return warning(
            "soft targets",
            f"{told}: over-confident, such targets say little more than labels",
            f"Teach at about T = {wanted:g}, where the largest probability falls to "
            f"{_largest(logits, wanted):.2f}.",
        )
    advice = f"About T = {wanted:g} suits it." if wanted > temperature else ""
    return ok("soft targets", told, advice)


def check_smoothing(logits: Logits) -> Finding:
    """Say whether the teacher learned smoothed labels, which wipe out what it knows of the other classes.

    Source: Müller, Kornblith, Hinton (2019), arXiv:1906.02629, section 4: such teachers teach less.
    """
    check, classes = "label smoothing", logits.shape[1]
    if classes < 3:
        return skipped(check, "two classes: there is no rest to be flat")
    probabilities = _softmax(logits)
    largest = probabilities.max(axis=1)
    middle, top = (float(value) for value in np.quantile(largest, (0.5, 0.9)))
    flatness = float(np.median(_flatness(probabilities[largest >= middle])))
    told = (
        f"nine in ten of the largest probabilities are below {top:.3f}; of the surer half, the rest is "
        f"spread {100 * flatness:.0f} % as evenly as can be"
    )
    if flatness >= FLAT_REST and PLATEAU[0] < middle and top < PLATEAU[1]:
        return warning(
            check,
            f"{told}, as if it had learned smoothed labels",
            "What it knew of the other classes is mostly gone (arXiv:1906.02629), and no T brings it back: "
            "take a teacher that was trained without label smoothing, or a low T and hard labels beside it.",
        )
    return ok(check, told)


def _largest(logits: Logits, temperature: float) -> float:
    return float(np.median(_softmax(logits / temperature).max(axis=1)))


def _softmax(logits: Logits) -> Float[np.ndarray, "rows classes"]:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _entropy(probabilities: Float[np.ndarray, "rows some"]) -> Float[np.ndarray, " rows"]:
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    return np.asarray(-(probabilities * logs).sum(axis=1))


def _flatness(probabilities: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, " rows"]:
    """Return the entropy of the shares of all but the largest, over that of equal shares."""
    rest = np.sort(probabilities, axis=1)[:, :-1]
    shares = rest / np.maximum(rest.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.asarray(_entropy(shares) / math.log(rest.shape[1]))
