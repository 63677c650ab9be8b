from datetime import UTC, datetime

import pytest
from prometheus_client.samples import Sample

from services.gateway.observability.comparison import Counts, comparison, latency, role_of
from shared.contracts.evaluation import ReliabilityBin
from shared.contracts.traffic import Canary, Shadow, TrafficPolicy
from tests.support.gateway_in_process import PNG_TYPE, image_file, refused
from tests.support.student_bundles import card

START = Sample("imago_gateway_start_time_seconds", {}, 1_800_000_000.0)


def described(*, reliability=(), confusion=(), classes=("ant", "bee")):
    plain = card("s-2", b"", classes=classes)
    bins = tuple(
        ReliabilityBin(lower=0.0, upper=1.0, count=count, mean_confidence=mean, accuracy=0.9)
        for count, mean in reliability
    )
    evaluation = plain.evaluation.model_copy(update={"reliability": bins, "confusion": confusion})
    return plain.model_copy(update={"evaluation": evaluation})


def samples(name, *values, student="s-2", **labels):
    return [Sample(name, {"student": student, **labels, **own}, value) for own, value in values]


def found(*counted, of=None, live="s-1"):
    return comparison(of or described(), live, "shadow", Counts([START, *counted]))


def test_what_was_not_seen_is_null():
    nothing = found()
    assert nothing.since == datetime.fromtimestamp(1_800_000_000, UTC)
    assert (nothing.answered_images, nothing.shadowed_images) == (0, 0)
    assert nothing.against_live is nothing.against_teacher is nothing.drift is None
    assert nothing.latency.call is nothing.latency.request is nothing.latency.images_per_call is None


def test_disagreement_is_a_share_with_its_wilson_interval():
    """Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263."""
    against = {"against": "live", "reference": "s-1"}
    shown = found(
        *samples("imago_student_compared_total", (against, 263)),
        *samples("imago_student_disagreements_total", (against, 81)),
        *samples("imago_student_compared_total", (against | {"reference": "s-0"}, 1000)),
        *samples("imago_student_compared_total", (against, 1000), student="s-3"),
    ).against_live
    assert (shown.reference, shown.compared, shown.disagreed) == ("s-1", 263, 81)
    assert shown.share == pytest.approx(81 / 263)
    assert shown.interval == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_the_teacher_is_the_one_on_the_card():
    against = {"against": "teacher", "reference": "digits-teacher"}
    shown = found(*samples("imago_student_compared_total", (against, 20))).against_teacher
    assert (shown.reference, shown.compared, shown.disagreed) == ("digits-teacher", 20, 0)
    assert shown.interval[0] == 0.0


def buckets(*counts):
    cumulative = zip(("0.001", "0.002", "0.005", "+Inf"), counts, strict=True)
    return samples("imago_prediction_seconds_bucket", *(({"le": le}, count) for le, count in cumulative))


def test_quantiles_are_told_as_the_bounds_of_their_buckets():
    times = latency(Counts(buckets(40, 90, 100, 100)), "s-2").request
    assert (times.p50.above_ms, times.p50.at_most_ms) == (1.0, 2.0)
    assert (times.p99.above_ms, times.p99.at_most_ms) == (2.0, 5.0)
    assert times.count == 100


def test_a_quantile_on_the_edge_is_in_the_lower_bucket_and_the_first_begins_at_0():
    times = latency(Counts(buckets(50, 99, 100, 100)), "s-2").request
    assert (times.p50.above_ms, times.p50.at_most_ms) == (0.0, 1.0)
    assert times.p99.at_most_ms == 2.0


def test_a_quantile_beyond_the_last_bucket_has_no_upper_bound():
    times = latency(Counts(buckets(0, 1, 1, 2)), "s-2").request
    assert (times.p99.above_ms, times.p99.at_most_ms) == (5.0, None)


def test_calls_of_both_roles_are_one_histogram():
    counts = Counts(
        [
            *samples(
                "imago_prediction_model_seconds_count", ({"role": "answer"}, 3), ({"role": "shadow"}, 1)
            ),
            *samples("imago_prediction_confidence_count", ({"role": "answer"}, 9), ({"role": "shadow"}, 7)),
            *samples(
                "imago_prediction_model_seconds_bucket",
                ({"role": "answer", "le": "0.1"}, 3), ({"role": "answer", "le": "+Inf"}, 3),
                ({"role": "shadow", "le": "0.1"}, 0), ({"role": "shadow", "le": "+Inf"}, 1),
            ),
        ]
    )  # fmt: skip
    times = latency(counts, "s-2")
    assert times.images_per_call == 4.0
    assert times.call.p50.at_most_ms == 100.0
    assert times.call.p99.at_most_ms is None


def seen(images, confidence_sum, **named):
    role = {"role": "shadow"}
    return [
        *samples("imago_prediction_confidence_count", (role, images)),
        *samples("imago_prediction_confidence_sum", (role, confidence_sum)),
        *samples("imago_predicted_class_total", *(({**role, "class": name}, n) for name, n in named.items())),
    ]


def test_confidence_drift_is_the_mean_now_minus_that_of_the_test_images():
    drift = found(*seen(10, 8.0), of=described(reliability=((30, 0.9), (10, 0.5), (0, None)))).drift
    assert drift.mean_confidence == 0.8
    assert drift.test_mean_confidence == pytest.approx((30 * 0.9 + 10 * 0.5) / 40)
    assert drift.confidence_drift == pytest.approx(0.0)
    assert drift.class_distance is None


def test_class_distance_is_half_the_sum_of_the_differences_of_shares():
    drift = found(*seen(10, 8.0, ant=9, bee=1), of=described(confusion=((40, 10), (10, 40)))).drift
    assert drift.class_distance == pytest.approx(0.4)
    assert drift.test_mean_confidence is drift.confidence_drift is None


def test_the_distance_by_chance_shrinks_with_the_root_of_the_number_of_images():
    of = described(confusion=((10**9, 0), (0, 10**9)))
    few = found(*seen(100, 80.0, ant=50, bee=50), of=of).drift.class_distance_by_chance
    many = found(*seen(10_000, 8000.0, ant=5000, bee=5000), of=of).drift.class_distance_by_chance
    # Two classes: half of twice the mean of |N(0, 0.25 / n)|.
    assert few == pytest.approx((0.25 / 100 * 2 / 3.141592653589793) ** 0.5, rel=1e-3)
    assert few / many == pytest.approx(10, rel=1e-3)


def test_where_not_all_classes_are_counted_apart_there_is_no_distance():
    of = described(confusion=((40, 10), (10, 40)))
    assert found(*seen(10, 8.0, **{"ant": 9, "": 1}), of=of).drift.class_distance is None


def test_the_role_is_what_the_policy_says():
    policy = TrafficPolicy(
        canary=Canary(version="s-2", share=0.1), shadow=Shadow(to="student", version="s-3")
    )
    roles = [role_of(version, "s-1", policy) for version in ("s-1", "s-2", "s-3", "s-4")]
    assert roles == ["live", "canary", "shadow", "none"]


def test_the_route_tells_of_what_was_just_answered(gateway):
    gateway.promote("comparison-1")
    for _ in range(3):
        gateway.client.post("/v1/predictions", content=image_file(), headers=PNG_TYPE)
    told = gateway.client.get("/v1/students/comparison-1/comparison").json()
    assert (told["role"], told["live"]) == ("live", "comparison-1")
    assert told["answered_images"] == told["drift"]["images"] == 3
    assert told["latency"]["request"]["count"] == 3
    assert told["against_live"] is None


def test_an_unknown_version_is_404(gateway):
    refused(gateway.client.get("/v1/students/nobody-1/comparison"), 404, "student-not-found")
