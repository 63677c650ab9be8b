"""How a student does on the traffic of now: beside the live student, beside its teacher, and beside its card.

All counts are those of `/metrics`, since the gateway was started, over all its processes.
"""

from datetime import datetime
from typing import Literal

from pydantic import Field

from shared.contracts.base import Contract


class Disagreement(Contract):
    """Images that were shown to two, and on how many of them they named different classes."""

    reference: str
    """Version of the live student, or the teacher's name."""
    compared: int = Field(ge=1)
    disagreed: int = Field(ge=0)
    share: float
    interval: tuple[float, float]
    """95 % Wilson score interval of the share."""


class Bounds(Contract):
    """A quantile that a histogram knows to within one of its buckets, in milliseconds."""

    above_ms: float
    at_most_ms: float | None
    """None where it lies beyond the last bucket."""


class LatencyBounds(Contract):
    """Two quantiles of a time."""

    p50: Bounds
    p99: Bounds
    count: int = Field(ge=1)
    """Of calls or of requests."""


class TrafficLatency(Contract):
    """What a student takes on the traffic."""

    version: str
    call: LatencyBounds | None
    """Of a call of the student, for answers and copies alike; None where there was none."""
    images_per_call: float | None
    """Mean; a call with more images takes longer."""
    request: LatencyBounds | None
    """Of a request from its head to its answer; None where it answered none, as a shadow does not."""


class CalibrationDrift(Contract):
    """What a student says now, beside what it said of the test images on its card."""

    images: int = Field(ge=1)
    """Of the traffic, answered or copied."""
    mean_confidence: float
    """Mean of the largest probability, on the traffic."""
    test_mean_confidence: float | None
    """The same on the test images; None where the card does not tell."""
    confidence_drift: float | None
    """The former minus the latter."""
    class_distance: float | None
    """Total variation distance, 0 to 1, between the shares of the classes named on the traffic and on the
    test images. None where the card does not tell, or where not all classes are counted apart."""
    class_distance_by_chance: float | None
    """What it would be on average if the traffic were drawn as the test images were, for this many images."""


class StudentComparison(Contract):
    """`GET /v1/students/{version}/comparison`. What was not seen is null."""

    version: str
    role: Literal["live", "canary", "shadow", "none"]
    """What the traffic policy makes of it now."""
    live: str | None
    """The version it is compared with."""
    since: datetime
    """When counting began: the start of the gateway."""
    answered_images: int
    """Clients saw what it said of them."""
    shadowed_images: int
    """Nobody did."""
    against_live: Disagreement | None
    """None for the live student itself."""
    against_teacher: Disagreement | None
    latency: TrafficLatency
    live_latency: TrafficLatency | None
    drift: CalibrationDrift | None
