"""How a student does on the traffic: read from the metrics, which add up all processes, and from its card."""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

from prometheus_client.samples import Sample

from services.gateway.observability import metrics
from shared.contracts.comparisons import (
    Bounds,
    CalibrationDrift,
    Disagreement,
    LatencyBounds,
    StudentComparison,
    TrafficLatency,
)
from shared.contracts.evaluation import Evaluation
from shared.contracts.students import StudentCard
from shared.contracts.traffic import TrafficPolicy
from shared.distillation.intervals import wilson_interval

Role = Literal["live", "canary", "shadow", "none"]


class Counts:
    """What was counted, by the name of a sample."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples: dict[str, list[Sample]] = {}
        for sample in samples:
            self._samples.setdefault(sample.name, []).append(sample)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have these labels, and perhaps others."""
        return sum(sample.value for sample in self._fitting(name, labels))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return these sums by the value of one more label."""
        sums: dict[str, float] = {}
        for sample in self._fitting(name, labels):
            value = sample.labels.get(label, "")
            sums[value] = sums.get(value, 0.0) + sample.value
        return sums

    def _fitting(self, name: str, labels: Mapping[str, str]) -> list[Sample]:
        return [
            sample
            for sample in self._samples.get(name, ())
            if all(sample.labels.get(label) == value for label, value in labels.items())
        ]


def role_of(version: str, live: str | None, policy: TrafficPolicy) -> Role:
    """Return what the traffic policy makes of a student."""
    if version == live:
        return "live"
    if policy.canary is not None and policy.canary.version == version:
        return "canary"
    if policy.shadow is not None and policy.shadow.version == version:
        return "shadow"
    return "none"


def comparison(card: StudentCard, live: str | None, role: Role, counts: Counts) -> StudentComparison:
    """Return how the student of this card does, beside the live one, its teacher and its card.

    Args:
        card: of the student.
        live: version of the student that answers.
        role: what the policy makes of the student.
        counts: of all processes.
    """
    version = card.version
    images = counts.by("role", "imago_prediction_confidence_count", student=version)
    return StudentComparison(
        version=version,
        role=role,
        live=live,
        since=datetime.fromtimestamp(counts.total("imago_gateway_start_time_seconds"), UTC),
        answered_images=int(images.get(metrics.ANSWER, 0)),
        shadowed_images=int(images.get(metrics.SHADOW, 0)),
        against_live=(
            disagreement(counts, version, metrics.LIVE, live)
            if live is not None and live != version
            else None
        ),
        against_teacher=(
            disagreement(counts, version, metrics.TEACHER, card.teacher) if card.teacher is not None else None
        ),
        latency=latency(counts, version),
        live_latency=latency(counts, live) if live is not None else None,
        drift=drift(counts, card),
    )


def disagreement(counts: Counts, version: str, against: str, reference: str) -> Disagreement | None:
    """Return on how many images a student and another named different classes; None where there were none."""
    labels = {"student": version, "against": against, "reference": reference}
    compared = int(counts.total("imago_student_compared_total", **labels))
    # Two counters of a running process are not read in one moment.
    disagreed = min(compared, int(counts.total("imago_student_disagreements_total", **labels)))
    if not compared:
        return None
    return Disagreement(
        reference=reference,
        compared=compared,
        disagreed=disagreed,
        share=disagreed / compared,
        interval=wilson_interval(disagreed, compared),
    )


def latency(counts: Counts, version: str) -> TrafficLatency:
    """Return what a student takes, as far as the buckets of the histograms tell."""
    calls = counts.total("imago_prediction_model_seconds_count", student=version)
    images = counts.total("imago_prediction_confidence_count", student=version)
    return TrafficLatency(
        version=version,
        call=_quantiles(counts, "imago_prediction_model_seconds_bucket", version),
        images_per_call=images / calls if calls else None,
        request=_quantiles(counts, "imago_prediction_seconds_bucket", version),
    )


def _quantiles(counts: Counts, name: str, version: str) -> LatencyBounds | None:
    buckets = sorted(
        (float(bound), int(count)) for bound, count in counts.by("le", name, student=version).items()
    )
    count = buckets[-1][1] if buckets else 0
    if not count:
        return None
    return LatencyBounds(p50=_bounds(buckets, 0.5), p99=_bounds(buckets, 0.99), count=count)


def _bounds(buckets: list[tuple[float, int]], quantile: float) -> Bounds:
    """Return the bucket that holds a quantile; `buckets` are upper bounds in s, and cumulative counts."""
    rank = math.ceil(quantile * buckets[-1][1])
    above_s = 0.0
    for bound_s, count in buckets:
        if count >= rank:
            break
        above_s = bound_s
    at_most_ms = round(1000 * bound_s, 6) if math.isfinite(bound_s) else None
    return Bounds(above_ms=round(1000 * above_s, 6), at_most_ms=at_most_ms)


def drift(counts: Counts, card: StudentCard) -> CalibrationDrift | None:
    """Return how the traffic differs from the test images for this student; None where it saw no traffic."""
    images = int(counts.total("imago_prediction_confidence_count", student=card.version))
    if not images:
        return None
    confidence = counts.total("imago_prediction_confidence_sum", student=card.version) / images
    expected = mean_confidence(card.evaluation)
    named = counts.by("class", "imago_predicted_class_total", student=card.version)
    distance, by_chance = _class_distance(card, named)
    return CalibrationDrift(
        images=images,
        mean_confidence=confidence,
        test_mean_confidence=expected,
        confidence_drift=confidence - expected if expected is not None else None,
        class_distance=distance,
        class_distance_by_chance=by_chance,
    )


def mean_confidence(evaluation: Evaluation) -> float | None:
    """Return the mean of the largest probability over the test images, from the reliability plot's bins."""
    bins = [(one.count, one.mean_confidence) for one in evaluation.reliability]
    count = sum(images for images, _ in bins)
    if not count:
        return None
    return sum(images * mean for images, mean in bins if mean is not None) / count


def _class_distance(card: StudentCard, named: Mapping[str, float]) -> tuple[float | None, float | None]:
    """Return the total variation distance of the classes named now and then, and that which chance makes."""
    tested = [sum(column) for column in zip(*card.evaluation.confusion, strict=True)]
    now, then = sum(named.values()), sum(tested)
    if not now or not then or len(tested) != len(card.classes) or not set(named) <= set(card.classes):
        return None, None
    distance = by_chance = 0.0
    for name, before in zip(card.classes, tested, strict=True):
        seen = named.get(name, 0.0)
        distance += abs(seen / now - before / then) / 2
        share = (seen + before) / (now + then)
        # Mean absolute value of a normal variable with the variance of the difference of the two shares.
        by_chance += math.sqrt(share * (1 - share) * (1 / now + 1 / then) * 2 / math.pi) / 2
    return distance, by_chance
