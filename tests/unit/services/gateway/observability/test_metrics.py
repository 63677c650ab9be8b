import asyncio
import time

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.gateway.hot.answered import Answered, Found
from services.gateway.hot.asked import Asked, Options
from services.gateway.observability import metrics
from services.gateway.observability.metrics import Counting


class Student:
    def __init__(self, version, classes=("zero", "one", "two")):
        self.version, self.classes = version, classes


def call(who, probabilities, *, waited_s=0.002, decode_s=0.0005, model_s=0.001, encode_s=0.0001):
    """A call that answered a request an image."""
    shares = np.asarray(probabilities, np.float32)
    order = np.argsort(-shares, axis=1)
    ranked = np.take_along_axis(shares, order, axis=1)
    now = time.perf_counter()
    batch = []
    for _ in shares:
        options = Options(now - waited_s - decode_s, 1)
        batch.append(Asked(who, [b"."], [None], options, decode_s=decode_s, done=lambda _: None))
        batch[-1].queued = now - waited_s
    return Answered(batch, Found(order.tolist(), ranked.tolist(), shares, now, model_s), encode_s)


def counted(name, **labels):
    return REGISTRY.get_sample_value(name, labels) or 0.0


def count(*calls):
    async def main():
        counting = Counting()
        for answered in calls:
            counting.observe(answered)
        counting.flush()

    asyncio.run(main())


@pytest.fixture
def who(request):
    return Student(f"s-{request.node.name}")


def test_the_class_and_the_confidence_of_each_image_are_counted(who):
    count(call(who, [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.1, 0.0, 0.9]]), call(who, [[0.5, 0.4, 0.1]]))
    labels = {"student": who.version, "role": "answer"}
    assert counted("imago_predictions_total", student=who.version) == 4
    assert counted("imago_prediction_confidence_count", **labels) == 4
    assert counted("imago_prediction_confidence_sum", **labels) == pytest.approx(2.7)
    assert counted("imago_prediction_confidence_bucket", **labels, le="0.6") == 1  # 0.6 as float32 is more
    named = {
        name: counted("imago_predicted_class_total", **labels, **{"class": name}) for name in who.classes
    }
    assert named == {"zero": 2, "one": 0, "two": 2}


def test_what_a_request_took_is_counted_by_the_student_that_answered(who):
    count(call(who, [[0.7, 0.2, 0.1]] * 2, waited_s=0.002, decode_s=0.0005, model_s=0.001, encode_s=0.0001))
    assert counted("imago_prediction_seconds_sum", student=who.version) == pytest.approx(2 * 0.0036)
    model = {"student": who.version, "role": "answer"}
    assert counted("imago_prediction_model_seconds_sum", **model) == pytest.approx(0.001)
    assert counted("imago_prediction_model_seconds_count", **model) == 1


def test_phases_are_counted_for_each_request_or_each_call(who):
    names = {
        "imago_prediction_queue_seconds": 2 * 0.002,
        "imago_prediction_decode_seconds": 2 * 0.0005,
        "imago_prediction_encode_seconds": 0.0001,
        "imago_prediction_batch_images": 2,
    }
    before = {name: counted(f"{name}_sum") for name in names}
    count(call(who, [[0.7, 0.2, 0.1]] * 2))
    assert {name: counted(f"{name}_sum") - before[name] for name in names} == pytest.approx(names)


def test_calls_of_two_students_are_told_apart(who):
    other = Student(f"{who.version}-other")
    count(call(who, [[1, 0, 0]]), call(other, [[0, 1, 0]] * 2), call(who, [[0, 0, 1]]))
    assert counted("imago_predictions_total", student=who.version) == 2
    assert counted("imago_predictions_total", student=other.version) == 2
    assert (
        counted("imago_predicted_class_total", student=other.version, role="answer", **{"class": "one"}) == 2
    )


def test_what_waits_is_counted_soon_without_being_asked(who):
    async def main():
        Counting().observe(call(who, [[1, 0, 0]]))
        while not counted("imago_predictions_total", student=who.version):
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_many_images_are_counted_at_once_and_not_held(who):
    async def main():
        counting = Counting()
        counting.observe(call(who, [[1, 0, 0]] * 64))
        assert counted("imago_predictions_total", student=who.version) == 64
        counting.flush()

    asyncio.run(main())


def test_classes_beyond_the_bound_are_counted_together(who, monkeypatch):
    monkeypatch.setattr(metrics, "MOST_CLASSES", 2)
    count(call(who, [[0, 0, 1], [1, 0, 0]]))
    labels = {"student": who.version, "role": "answer"}
    assert counted("imago_predicted_class_total", **labels, **{"class": "zero"}) == 1
    assert counted("imago_predicted_class_total", **labels, **{"class": ""}) == 1
    assert REGISTRY.get_sample_value("imago_predicted_class_total", labels | {"class": "two"}) is None


def test_classes_of_many_students_are_bounded_together(who, monkeypatch):
    monkeypatch.setattr(metrics, "_MOST_SERIES", metrics._Series.total + 1)
    other = Student(f"{who.version}-other")
    count(call(who, [[1, 0, 0]]), call(other, [[1, 0, 0]]))
    assert (
        counted("imago_predicted_class_total", student=who.version, role="answer", **{"class": "zero"}) == 1
    )
    assert counted("imago_predicted_class_total", student=other.version, role="answer", **{"class": ""}) == 1


def test_a_version_that_comes_again_with_other_classes_is_counted_by_them(who):
    count(call(who, [[1, 0, 0]]))
    count(call(Student(who.version, ("ant", "bee", "cat", "dog")), [[0, 0, 0, 1]]))
    labels = {"student": who.version, "role": "answer"}
    assert counted("imago_predicted_class_total", **labels, **{"class": "zero"}) == 1
    assert counted("imago_predicted_class_total", **labels, **{"class": "dog"}) == 1
