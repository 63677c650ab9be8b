import asyncio
import json
import threading
import time

import numpy as np
import pytest

from services.gateway.hot import batches
from services.gateway.hot.asked import Asked, Options
from services.gateway.hot.batches import Batches
from shared.contracts.images import ImageInput
from shared.errors import DeadlineExceeded, QueueFull

SIZE = ImageInput(height=1, width=1, channels=1)


class Student:
    """Says class 0 for 0 and class 1 for everything else, and remembers its calls."""

    classes = ("zero", "more")
    input = SIZE
    seconds_per_image = 0.0001

    def __init__(self, version="s-1", call_s=0.0001, fails=False):
        self.version, self.call_s, self.fails = version, call_s, fails
        self.calls, self.threads = [], set()
        self.go = threading.Event()
        self.go.set()

    def probabilities(self, images):
        self.go.wait(5)
        self.calls.append(len(images))
        self.threads.add(threading.current_thread())
        if self.fails:
            raise RuntimeError("out of order")
        more = (images.reshape(-1) > 0).astype(np.float32)
        return np.stack([1 - more, more], axis=1)


def asked(student, pixels, done, *, deadline=None, top=1):
    began = time.perf_counter()
    decoded = [bytes([value]) for value in pixels]
    files = [None] * len(decoded)
    return Asked(student, decoded, files, Options(began, top, deadline), decode_s=0.0, done=done)


def run(scenario, most_waiting=1000):
    async def main():
        queue = Batches(most_waiting=most_waiting)
        queue.start()
        try:
            await asyncio.wait_for(scenario(queue), 10)
        finally:
            queue.stop()

    asyncio.run(main())


class Answers(list):
    """What those who asked were told, in the order of the telling."""

    def wanted(self):
        return lambda found: self.append(found)

    async def all(self, count):
        while len(self) < count:
            await asyncio.sleep(0.001)

    def predicted(self):
        return [[one["predicted"] for one in json.loads(found)["predictions"]] for found in self]


@pytest.mark.parametrize("call_s", [0.0001, 0.01])
def test_each_request_is_answered_for_its_own_images_in_its_own_order(call_s):
    student, answers = Student(call_s=call_s), Answers()

    async def scenario(queue):
        for pixels in ([0], [1, 0, 1], [0, 0]):
            queue.submit(asked(student, pixels, answers.wanted()))
        await answers.all(3)

    run(scenario)
    assert answers.predicted() == [["zero"], ["more", "zero", "more"], ["zero", "zero"]]


def test_what_one_turn_of_the_loop_brings_is_one_call_on_the_loop():
    student, answers = Student(), Answers()

    async def scenario(queue):
        for _ in range(10):
            queue.submit(asked(student, [0], answers.wanted()))
        await answers.all(10)

    run(scenario)
    assert student.calls == [10]
    assert student.threads == {threading.main_thread()}


def test_a_slow_student_runs_in_a_thread_and_takes_what_waits_when_it_is_free():
    student, answers = Student(call_s=0.01), Answers()

    async def scenario(queue):
        student.go.clear()
        queue.submit(asked(student, [0], answers.wanted()))
        await asyncio.sleep(0.05)  # the loop turns while the student is at it
        for _ in range(7):
            queue.submit(asked(student, [0], answers.wanted()))
        student.go.set()
        await answers.all(8)

    run(scenario)
    assert student.calls == [1, 7]
    assert threading.main_thread() not in student.threads


def test_a_call_takes_no_more_images_than_its_time_allows():
    student, answers = Student(call_s=0.01), Answers()
    student.seconds_per_image = batches._CALL_S / 3

    async def scenario(queue):
        student.go.clear()
        for _ in range(8):
            queue.submit(asked(student, [0], answers.wanted()))
        student.go.set()
        await answers.all(8)

    run(scenario)
    assert max(student.calls) <= 3
    assert sum(student.calls) == 8


def test_requests_of_two_students_are_never_in_one_call():
    one, other, answers = Student("s-1"), Student("s-2"), Answers()

    async def scenario(queue):
        for student in (one, one, other, one):
            queue.submit(asked(student, [0], answers.wanted()))
        await answers.all(4)

    run(scenario)
    assert [json.loads(found)["student"] for found in answers] == ["s-1", "s-1", "s-2", "s-1"]
    assert (one.calls, other.calls) == ([2, 1], [1])


@pytest.mark.parametrize("call_s", [0.0001, 0.01])
def test_a_student_that_fails_fails_only_its_own_requests(call_s):
    good, bad, answers = Student(call_s=call_s), Student("bad", call_s, fails=True), Answers()

    async def scenario(queue):
        queue.submit(asked(bad, [0], answers.wanted()))
        queue.submit(asked(good, [1], answers.wanted()))
        await answers.all(2)

    run(scenario)
    assert isinstance(answers[0], RuntimeError)
    assert json.loads(answers[1])["predictions"][0]["predicted"] == "more"


@pytest.mark.parametrize("call_s", [0.0001, 0.01])
def test_what_is_too_late_is_refused_without_a_call(call_s):
    student, answers = Student(call_s=call_s), Answers()

    async def scenario(queue):
        queue.submit(asked(student, [0], answers.wanted(), deadline=time.perf_counter() - 0.001))
        await answers.all(1)

    run(scenario)
    assert isinstance(answers[0], DeadlineExceeded)
    assert student.calls == []


def test_more_images_than_may_wait_are_refused_at_once():
    student, answers = Student(call_s=0.01), Answers()

    async def scenario(queue):
        student.go.clear()
        queue.submit(asked(student, [0], answers.wanted()))
        await asyncio.sleep(0.05)
        queue.submit(asked(student, [0] * 4, answers.wanted()))
        queue.need_room(student, 1)
        with pytest.raises(QueueFull):
            queue.need_room(student, 2)
        student.go.set()
        await answers.all(2)
        queue.need_room(student, 1000)  # one alone always may

    run(scenario, most_waiting=5)
