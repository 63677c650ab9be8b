"""Figures about a model on labelled images, and the comparison that ends in a verdict."""

from enum import StrEnum

from pydantic import Field

from shared.contracts.base import Contract


class Verdict(StrEnum):
    """Was the student worth it? Decided by the confidence interval of its gain over the untaught twin."""

    BEATS = "BEATS"
    DOES_NOT_BEAT = "DOES NOT BEAT"
    INCONCLUSIVE = "INCONCLUSIVE"


class ReliabilityBin(Contract):
    """Predictions whose confidence falls in one bin, for ECE and the reliability plot."""

    lower: float
    upper: float
    count: int
    mean_confidence: float | None
    accuracy: float | None


class Evaluation(Contract):
    """A model on labelled images at T = 1. Shares are 0 to 1, NLL is in nats an example."""

    examples: int = Field(ge=1)
    errors: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    """95 % Wilson score interval over examples."""
    nll: float
    brier: float
    """Mean over examples of the squared distance to the one-hot label, summed over classes (0 to 2)."""
    ece: float
    """Expected calibration error over 15 equal-width bins of confidence (Guo et al. 2017)."""
    reliability: tuple[ReliabilityBin, ...]
    errors_by_class: dict[str, int]
    confusion: tuple[tuple[int, ...], ...]
    """Row: true class; column: predicted class."""


class NetFigures(Contract):
    """One net on labelled images at T = 1, in short: the figures of `Evaluation` under the same names."""

    arm: str
    seed: int
    errors: int
    accuracy: float
    nll: float
    brier: float
    ece: float
    errors_by_class: dict[str, int]
    agreement: float | None = None
    """Share of images on which it names the teacher's class."""
    validation_accuracy: float | None = None


class SeedComparison(Contract):
    """Taught and untaught student of one seed, on the same test images."""

    seed: int
    taught_accuracy: float
    untaught_accuracy: float
    taught_agreement: float | None = None
    """Share of test images on which the taught student names the teacher's class, where there is one."""


class Comparison(Contract):
    """Taught minus untaught accuracy over seeds and examples, and what follows from it."""

    verdict: Verdict
    gain: float
    """Mean difference in accuracy (0.01 is one point)."""
    interval: tuple[float, float]
    """95 % confidence interval of the gain over new seeds and new examples alike."""
    p_value: float
    degrees_of_freedom: float
    margin: float
    """A gain below this is not worth a teacher: DOES NOT BEAT says the interval excludes more."""
    method: str
    seeds: tuple[SeedComparison, ...]
