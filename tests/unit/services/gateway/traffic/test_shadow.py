import asyncio
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.gateway.hot.asked import Asked, Options
from services.gateway.hot.batches import Batches
from services.gateway.traffic import asking
from services.gateway.traffic.shadow import Shadow
from shared.contracts.images import ImageInput
from shared.contracts.traffic import Canary, TrafficPolicy
from shared.contracts.traffic import Shadow as ShadowPolicy
from shared.errors import TeacherUnavailable

SIZE = ImageInput(height=1, width=2, channels=1)


class Student:
    """Says class `says[pixel]`, and remembers the images of its calls."""

    input = SIZE
    seconds_per_image = call_s = 0.0001

    def __init__(self, version, says, classes=("zero", "one"), teacher="digits-teacher"):
        self.version, self.says, self.classes = version, says, classes
        self.card = SimpleNamespace(teacher=teacher, teacher_digest=teacher, specialists=None)
        self.calls, self.threads = [], set()
        self.go = threading.Event()
        self.go.set()
        self.fails = False

    def probabilities(self, images):
        self.go.wait(20)
        self.calls.append(len(images))
        self.threads.add(threading.current_thread())
        if self.fails:
            raise RuntimeError("out of order")
        return np.eye(2, dtype=np.float32)[[self.says[image.flat[0]] for image in images]]


def counted(name, **labels):
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Gateway:
    """Batches that a shadow looks at, with a policy that a test may replace."""

    def __init__(self, live, policy, *, canary=None, shadow=None):
        self.batches = Batches(most_waiting=10_000)
        self.live = SimpleNamespace(current=live)
        self.traffic = SimpleNamespace(policy=policy, canary=canary, shadow_student=shadow)
        self.differed, self.answers = [], []
        self.shadow = Shadow(
            self.batches,
            self.traffic,
            self.live,
            teacher_urls="http://teacher",
            differ=lambda student, pixels: self.differed.append((student.version, pixels[0])),
        )

    def ask(self, *pixels, student=None):
        asked = Asked(
            student or self.live.current,
            [bytes([value, 0]) for value in pixels],
            [None] * len(pixels),
            Options(time.perf_counter(), 1),
            decode_s=0.0,
            done=self.answers.append,
        )
        self.batches.submit(asked)

    def run(self, scenario):
        async def main():
            self.batches.start()
            self.shadow.follow()
            try:
                await asyncio.wait_for(scenario(), 20)
            finally:
                self.batches.stop()
                self.shadow.stop()

        asyncio.run(main())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.002)


TO_STUDENT = TrafficPolicy(shadow=ShadowPolicy(to="student", version="s-2"))
TO_TEACHER = TrafficPolicy(shadow=ShadowPolicy(to="teacher"))


@pytest.fixture
def versions(request):
    """Names of a live student and a candidate that no other test has counted."""
    return f"live-{request.node.name}", f"candidate-{request.node.name}"


def compared(version, against, reference):
    labels = {"student": version, "against": against, "reference": reference}
    return (
        counted("imago_student_compared_total", **labels),
        counted("imago_student_disagreements_total", **labels),
    )


def test_a_shadow_student_sees_what_the_live_one_answered_and_is_counted_where_they_differ(versions):
    live, candidate = Student(versions[0], [0, 1, 0]), Student(versions[1], [0, 1, 1])
    gateway = Gateway(live, TO_STUDENT, shadow=candidate)

    async def scenario():
        gateway.ask(0, 2, 1)
        gateway.ask(1)
        gateway.ask(2)
        await until(lambda: compared(candidate.version, "live", live.version)[0] == 5)

    gateway.run(scenario)
    assert compared(candidate.version, "live", live.version) == (5, 2)
    assert gateway.differed == [(live.version, 2)] * 2
    assert len(gateway.answers) == 3
    assert threading.main_thread() not in candidate.threads
    role = {"student": candidate.version, "role": "shadow"}
    assert counted("imago_prediction_confidence_count", **role) == 5
    assert counted("imago_predicted_class_total", **role, **{"class": "one"}) == 4
    assert counted("imago_predictions_total", student=candidate.version) == 0


def test_students_are_compared_by_the_names_of_classes_not_by_their_order(versions):
    live = Student(versions[0], [0, 1])
    candidate = Student(versions[1], [1, 0], classes=("one", "zero"))
    gateway = Gateway(live, TO_STUDENT, shadow=candidate)

    async def scenario():
        gateway.ask(0, 1)
        await until(lambda: compared(candidate.version, "live", live.version)[0] == 2)

    gateway.run(scenario)
    assert compared(candidate.version, "live", live.version) == (2, 0)


def test_what_the_canary_answered_is_shown_to_the_live_student_and_not_the_other_way_round(versions):
    live, canary = Student(versions[0], [0, 0]), Student(versions[1], [0, 1])
    gateway = Gateway(live, TrafficPolicy(canary=Canary(version="s-2", share=0.5)), canary=canary)

    async def scenario():
        gateway.ask(0, 1, student=canary)
        gateway.ask(0, 1, student=live)
        await until(lambda: compared(canary.version, "live", live.version)[0] == 2)

    gateway.run(scenario)
    assert compared(canary.version, "live", live.version) == (2, 1)
    assert compared(live.version, "live", canary.version) == (0, 0)
    assert gateway.differed == [(canary.version, 1)]
    assert canary.calls == [2]
    assert counted("imago_prediction_confidence_count", student=live.version, role="shadow") == 2


def test_neither_the_canary_nor_a_version_asked_for_by_name_is_shown_to_the_shadow_student(versions):
    live, candidate = Student(versions[0], [0]), Student(versions[1], [0])
    canary, named = Student(f"{versions[0]}-canary", [0]), Student(f"{versions[0]}-named", [0])
    policy = TrafficPolicy(
        canary=Canary(version="s-3", share=0.5), shadow=ShadowPolicy(to="student", version="s-2")
    )
    gateway = Gateway(live, policy, canary=canary, shadow=candidate)

    async def scenario():
        gateway.ask(0, student=named)
        gateway.ask(0, student=canary)
        gateway.ask(0, student=live)
        await until(lambda: compared(canary.version, "live", live.version)[0] == 1)
        await until(lambda: compared(candidate.version, "live", live.version)[0] == 1)

    gateway.run(scenario)
    assert (candidate.calls, named.calls, live.calls) == ([1], [1], [1, 1])
    assert compared(named.version, "live", live.version) == (0, 0)


def test_a_gateway_that_stops_takes_no_more_copies(versions):
    live, candidate = Student(versions[0], [0]), Student(versions[1], [0])
    gateway = Gateway(live, TO_STUDENT, shadow=candidate)
    before = counted("imago_shadow_dropped_total", to="student", reason="full")

    async def scenario():
        gateway.shadow.stop()
        gateway.ask(0)
        await until(lambda: counted("imago_shadow_dropped_total", to="student", reason="full") == before + 1)

    gateway.run(scenario)
    assert candidate.calls == []


def test_a_share_of_the_requests_is_copied(versions, monkeypatch):
    live, candidate = Student(versions[0], [0]), Student(versions[1], [0])
    half = TrafficPolicy(shadow=ShadowPolicy(to="student", version="s-2", share=0.5))
    gateway = Gateway(live, half, shadow=candidate)
    drawn = iter([0.1, 0.6, 0.49, 0.5])
    monkeypatch.setattr("services.gateway.traffic.shadow.random.random", lambda: next(drawn))

    async def scenario():
        for _ in range(4):
            gateway.ask(0)
        await until(lambda: compared(candidate.version, "live", live.version)[0] == 2)

    gateway.run(scenario)
    assert sum(candidate.calls) == 2


@pytest.mark.parametrize("trouble", ["hangs", "fails"])
def test_a_shadow_that_hangs_or_fails_changes_no_answer_and_what_waits_is_bounded(
    versions, trouble, monkeypatch
):
    monkeypatch.setattr(asking, "_PATIENCE_S", 0.05)
    live, candidate = Student(versions[0], [0, 1]), Student(versions[1], [0, 1])
    gateway = Gateway(live, TO_STUDENT, shadow=candidate)
    if trouble == "hangs":
        candidate.go.clear()
    else:
        candidate.fails = True
    asked = asking.MOST_IMAGES * 3
    reason = "full" if trouble == "hangs" else "failed"
    before = counted("imago_shadow_dropped_total", to="student", reason=reason)

    async def scenario():
        for image in range(asked):
            gateway.ask(image % 2)
            if image % 32 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(gateway.answers) == asked)
        dropped = asked if trouble == "fails" else asked - asking.MOST_IMAGES - asking._TOGETHER_IMAGES
        await until(
            lambda: (
                counted("imago_shadow_dropped_total", to="student", reason=reason) - before
                >= (dropped if trouble == "hangs" else 1)
            )
        )

    gateway.run(scenario)
    candidate.go.set()
    said = [json.loads(answer)["predictions"][0]["predicted"] for answer in gateway.answers]
    assert said == ["zero", "one"] * (asked // 2)
    assert compared(candidate.version, "live", live.version) == (0, 0)
    assert gateway.differed == []


def test_pixels_that_wait_are_bounded_in_bytes_too(versions, monkeypatch):
    monkeypatch.setattr(asking, "MOST_BYTES", 20)
    live, candidate = Student(versions[0], [0]), Student(versions[1], [0])
    before = counted("imago_shadow_dropped_total", to="student", reason="full")
    gateway = Gateway(live, TO_STUDENT, shadow=candidate)

    async def scenario():
        gateway.ask(*[0] * 11)  # of two bytes each
        await until(lambda: counted("imago_shadow_dropped_total", to="student", reason="full") == before + 11)
        gateway.ask(*[0] * 10)
        await until(lambda: compared(candidate.version, "live", live.version)[0] == 10)

    gateway.run(scenario)


def test_without_a_policy_nobody_looks_on(versions):
    live, candidate = Student(versions[0], [0]), Student(versions[1], [0])
    gateway = Gateway(live, TO_STUDENT, shadow=candidate)

    async def scenario():
        assert len(gateway.batches.observers) == 1
        gateway.traffic.policy = TrafficPolicy()
        gateway.shadow.follow()
        assert gateway.batches.observers == []
        gateway.ask(0)
        await until(lambda: gateway.answers)

    gateway.run(scenario)
    assert candidate.calls == []


class Teacher:
    """In place of the asker of a teacher service."""

    def __init__(self, urls, **_):
        self.urls = urls

    async def ask(self, card, images, *, deadline_s):
        if images[0].flat[0] == 9:
            raise TeacherUnavailable("gone")
        return np.eye(2, dtype=np.float32)[[1] * len(images)]

    async def close(self):
        pass


def test_the_teacher_is_asked_about_copies_and_one_that_is_away_is_counted(versions, monkeypatch):
    monkeypatch.setattr(asking, "TeacherAsker", Teacher)
    live = Student(versions[0], dict.fromkeys(range(10), 0) | {1: 1})
    gateway = Gateway(live, TO_TEACHER)
    away = {"to": "teacher", "reason": "failed"}
    before = counted("imago_shadow_dropped_total", **away)

    async def scenario():
        gateway.ask(9)
        await until(lambda: counted("imago_shadow_dropped_total", **away) == before + 1)
        gateway.ask(0, 1, 2)
        await until(lambda: compared(live.version, "teacher", "digits-teacher")[0] == 3)

    gateway.run(scenario)
    assert compared(live.version, "teacher", "digits-teacher") == (3, 2)
    assert gateway.differed == [(live.version, 0), (live.version, 2)]


def test_a_student_without_a_teacher_is_not_shown_to_one(versions):
    live = Student(versions[0], [0], teacher=None)
    gateway = Gateway(live, TO_TEACHER)
    before = counted("imago_shadow_dropped_total", to="teacher", reason="no_teacher")

    async def scenario():
        gateway.ask(0)
        await until(
            lambda: counted("imago_shadow_dropped_total", to="teacher", reason="no_teacher") == before + 1
        )

    gateway.run(scenario)
