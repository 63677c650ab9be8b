"""Which images go to the teacher, what becomes of its answers, and that nobody waits for it in vain."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from services.gateway.hot.answered import Found, Uncertain
from services.gateway.hot.asked import Asked, Options
from services.gateway.hot.batches import Batches, call
from services.gateway.traffic.cascade import ESCALATED, Escalations, threshold_of
from shared.contracts.cascade import CascadeCurve, CascadePoint
from shared.contracts.images import ImageInput
from shared.contracts.students import StudentCard
from shared.contracts.traffic import Cascade, TrafficPolicy
from shared.errors import DeadlineExceeded, TeacherUnavailable
from tests.support.student_bundles import EXPERTS, card

SIZE = ImageInput(height=1, width=1, channels=1)
LONG_MS = 60_000


class Student:
    """Names class `a`, and is the surer of it the brighter the pixel: 0 is a half, 50 is 0.75, 100 is all."""

    classes = ("a", "b", "c")
    input = SIZE
    call_s = seconds_per_image = 0.0001

    def __init__(self, version: str = "s-1", **facts: object) -> None:
        self.version = version
        self.card = card(version, b"", classes=self.classes, image=SIZE).model_copy(update=facts)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        sure = 0.5 + images.reshape(-1).astype(np.float32) / 200
        return np.stack([sure, (1 - sure) * 0.75, (1 - sure) * 0.25], axis=1)


class Teacher:
    """Always says `c`, and remembers what it was asked."""

    most_in_flight = 2
    willing = True
    says = (0.125, 0.25, 0.625)

    def __init__(self) -> None:
        self.questions: list[list[int]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None
        self.closed = False
        self.opened = 0

    def able(self, card: StudentCard) -> bool:
        return self.willing

    async def ask(self, card: StudentCard, images: np.ndarray, *, deadline_s: float) -> np.ndarray:
        self.questions.append(images.reshape(-1).tolist())
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return np.tile(np.array(self.says, np.float32), (len(images), 1))

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed = True


class Gateway:
    """Batches with escalations behind them, on a running loop."""

    def __init__(self, teacher: Teacher, deadline_ms: int) -> None:
        self.student = Student()
        self.teacher = teacher
        self.policy = TrafficPolicy(cascade=Cascade(threshold=0.5, deadline_ms=deadline_ms))
        self.escalations = Escalations(teacher, lambda: self.policy)  # type: ignore[arg-type]
        self.told: list[tuple[int, list[float] | None]] = []
        self.escalations.on_escalated.append(
            lambda one: self.told.append(
                (one.pixels[0], None if one.teacher is None else one.teacher.tolist())
            )
        )
        self.batches = Batches(most_waiting=1000)
        self.batches.escalate = self.escalations
        self.batches.start()

    def ask(
        self,
        *pixels: int,
        threshold: float | None = 0.75,
        top: int = 3,
        deadline_s: float | None = None,
        student: Student | None = None,
        encode: Any = None,
    ) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        options = Options(began, top, None if deadline_s is None else began + deadline_s)
        asked = Asked(
            student or self.student,  # type: ignore[arg-type]
            [bytes([pixel]) for pixel in pixels],
            [f"{pixel}.png" for pixel in pixels],
            options,
            decode_s=0.0,
            done=answer.set_result,
            threshold=threshold,
            encode=encode,
        )
        self.batches.submit(asked)
        return answer


def run(scenario: Callable[[Gateway], Coroutine[Any, Any, None]], *, deadline_ms: int = LONG_MS) -> None:
    async def main() -> None:
        gateway = Gateway(Teacher(), deadline_ms)
        try:
            await asyncio.wait_for(scenario(gateway), 30)
        finally:
            await gateway.escalations.close()
            gateway.batches.stop()

    asyncio.run(main())


async def turns() -> None:
    """Let the event loop do all that it can do now: all of this is on the loop, so no time is needed."""
    for _ in range(30):
        await asyncio.sleep(0)


def by(answer: bytes) -> list[tuple[str, str]]:
    return [(one["predicted"], one["answered_by"]) for one in json.loads(answer)["predictions"]]


def counted(outcome: str) -> float:
    return float(ESCALATED.labels("s-1", outcome)._value.get())


def test_only_the_images_that_the_student_is_not_sure_of_go_to_the_teacher():
    async def scenario(gateway: Gateway) -> None:
        answer = await gateway.ask(90, 40, 50, 45)
        assert gateway.teacher.questions == [[40, 45]]
        assert by(answer) == [("a", "student"), ("c", "teacher"), ("a", "student"), ("c", "teacher")]

    run(scenario)


def test_the_teachers_answer_is_ranked_and_cut_as_a_students_is():
    async def scenario(gateway: Gateway) -> None:
        answer = json.loads(await gateway.ask(40, top=2))
        (one,) = answer["predictions"]
        assert one["classes"] == [{"name": "c", "probability": 0.625}, {"name": "b", "probability": 0.25}]
        assert (one["file"], answer["student"], answer["temperature"]) == ("40.png", "s-1", 1.0)

    run(scenario)


def test_the_teachers_answer_is_told_to_as_many_decimals_as_a_students():
    async def scenario(gateway: Gateway) -> None:
        gateway.teacher.says = (0.12345678, 0.87654321, 1e-9)
        (one,) = json.loads(await gateway.ask(40))["predictions"]
        assert [named["probability"] for named in one["classes"]] == [0.876543, 0.123457, 0.0]

    run(scenario)


def test_a_request_without_a_threshold_or_with_that_of_never_is_the_students():
    async def scenario(gateway: Gateway) -> None:
        for threshold in (None, 0.0):
            assert by(await gateway.ask(1, threshold=threshold)) == [("a", "student")]
        assert not gateway.teacher.questions

    run(scenario)


def test_requests_of_one_turn_are_one_question_and_each_gets_its_own():
    async def scenario(gateway: Gateway) -> None:
        answers = [gateway.ask(40), gateway.ask(90), gateway.ask(91, 30, 20)]
        assert [by(await answer) for answer in answers] == [
            [("c", "teacher")], [("a", "student")], [("a", "student"), ("c", "teacher"), ("c", "teacher")],
        ]  # fmt: skip
        assert gateway.teacher.questions == [[40, 30, 20]]

    run(scenario)


def test_students_do_not_share_a_question():
    async def scenario(gateway: Gateway) -> None:
        other = Student("s-2")
        answers = [gateway.ask(40), gateway.ask(41, student=other), gateway.ask(42, student=other)]
        await asyncio.gather(*answers)
        assert gateway.teacher.questions == [[40], [41, 42]]

    run(scenario)


def test_what_comes_while_questions_are_in_flight_goes_together_in_the_next_one():
    async def scenario(gateway: Gateway) -> None:
        gateway.teacher.go.clear()
        answers = []
        for pixel in range(1, 6):
            answers.append(gateway.ask(pixel))
            await turns()
        assert gateway.teacher.questions == [[1], [2]]
        gateway.teacher.go.set()
        assert [by(await answer) for answer in answers] == [[("c", "teacher")]] * 5
        assert gateway.teacher.questions == [[1], [2], [3, 4, 5]]

    run(scenario)


def test_a_question_has_no_more_than_64_images_unless_one_request_has():
    async def scenario(gateway: Gateway) -> None:
        gateway.teacher.go.clear()
        answers = [gateway.ask(*[1] * 60), gateway.ask(*[2] * 10), gateway.ask(*[3] * 100)]
        await turns()
        gateway.teacher.go.set()
        await asyncio.gather(*answers)
        assert [len(question) for question in gateway.teacher.questions] == [60, 10, 100]

    run(scenario)


def test_a_late_teacher_costs_the_deadline_and_no_answer():
    async def scenario(gateway: Gateway) -> None:
        gateway.teacher.go.clear()
        before = counted("late")
        assert by(await gateway.ask(40, 90)) == [("a", "student"), ("a", "student")]
        assert counted("late") == before + 1

    run(scenario, deadline_ms=20)


def test_the_deadline_of_a_request_that_was_answered_is_forgotten():
    async def scenario(gateway: Gateway) -> None:
        loop, timers = asyncio.get_running_loop(), []
        call_later = loop.call_later

        def noted(*args: Any) -> asyncio.TimerHandle:
            timers.append(call_later(*args))
            return timers[-1]

        loop.call_later = noted  # type: ignore[method-assign]
        await gateway.ask(40)
        assert [timer.cancelled() for timer in timers] == [True]

    run(scenario)


def test_the_deadline_of_the_request_is_kept_where_it_is_the_shorter_one():
    async def scenario(gateway: Gateway) -> None:
        gateway.teacher.go.clear()
        answer = await gateway.ask(40, deadline_s=0.5)
        assert by(answer) == [("a", "student")]

    run(scenario)


def test_where_all_time_is_spent_already_the_teacher_is_not_asked():
    async def scenario(gateway: Gateway) -> None:
        answers: list[Any] = []
        options = Options(time.perf_counter(), 3, deadline=time.perf_counter())
        asked = Asked(
            gateway.student,  # type: ignore[arg-type]
            [bytes([40])],
            [None],
            options,
            decode_s=0.0,
            done=answers.append,
            threshold=0.75,
        )
        found = call([asked])
        assert isinstance(found, Found)
        gateway.escalations(Uncertain(asked, found))
        assert by(answers[0]) == [("a", "student")]
        assert not gateway.teacher.questions

    run(scenario)


@pytest.mark.parametrize(
    ("error", "outcome"), [(TeacherUnavailable("gone"), "failed"), (DeadlineExceeded(0.1), "late")]
)
def test_a_teacher_that_fails_costs_no_answer(error, outcome):
    async def scenario(gateway: Gateway) -> None:
        gateway.teacher.error = error
        before = counted(outcome)
        assert by(await gateway.ask(40)) == [("a", "student")]
        assert counted(outcome) == before + 1

    run(scenario)


def test_what_nobody_foresaw_costs_no_answer_either(caplog):
    async def scenario(gateway: Gateway) -> None:
        gateway.teacher.error = ValueError("a fault of ours")
        assert by(await gateway.ask(40)) == [("a", "student")]
        gateway.teacher.error = None
        assert by(await gateway.ask(40)) == [("c", "teacher")]

    run(scenario)
    assert "a question to the teacher failed" in caplog.text


def test_a_teacher_that_is_left_alone_is_not_waited_for():
    async def scenario(gateway: Gateway) -> None:
        gateway.teacher.willing = False
        before = counted("refused")
        assert by(await gateway.ask(40)) == [("a", "student")]
        assert not gateway.teacher.questions
        assert counted("refused") == before + 1

    run(scenario)


def test_where_too_many_images_wait_the_student_answers_at_once():
    async def scenario(gateway: Gateway) -> None:
        gateway.teacher.go.clear()
        flying = [gateway.ask(*[1] * 64), gateway.ask(*[2] * 64)]
        await turns()
        waiting = [gateway.ask(*[3] * 64) for _ in range(4)]
        assert by(await gateway.ask(4)) == [("a", "student")]
        gateway.teacher.go.set()
        for answer in [*flying, *waiting]:
            assert by(await answer)[0] == ("c", "teacher")

    run(scenario)


def test_a_student_without_a_teacher_answers_by_itself():
    async def scenario(gateway: Gateway) -> None:
        for facts in ({"teacher": None, "teacher_digest": None}, {"specialists": EXPERTS}):
            assert by(await gateway.ask(40, student=Student(**facts))) == [("a", "student")]
        assert not gateway.teacher.questions
        assert not gateway.told

    run(scenario)


def test_another_form_of_answer_is_written_with_the_teachers_probabilities():
    async def scenario(gateway: Gateway) -> None:
        answer = await gateway.ask(90, 40, encode=lambda asked, found: found.probabilities[:, 2].tolist())
        assert answer == pytest.approx([0.0125, 0.625])

    run(scenario)


def test_whoever_looks_on_hears_of_each_escalated_image_and_of_late_answers_too():
    said = [0.125, 0.25, 0.625]

    async def scenario(gateway: Gateway) -> None:
        await gateway.ask(90, 40)
        assert gateway.told == [(40, said)]
        gateway.teacher.go.clear()
        await gateway.ask(41, deadline_s=0.5)
        gateway.teacher.go.set()
        while len(gateway.told) < 2:
            await asyncio.sleep(0.005)
        gateway.teacher.error = TeacherUnavailable("gone")
        await gateway.ask(42)
        gateway.teacher.willing = False
        await gateway.ask(43)
        assert gateway.told[1:] == [(41, said), (42, None), (43, None)]

    run(scenario)


def test_a_gateway_gets_ready_to_ask_once_the_policy_has_a_cascade():
    async def scenario(gateway: Gateway) -> None:
        policy, gateway.policy = gateway.policy, TrafficPolicy()
        gateway.escalations.follow()
        await turns()
        assert gateway.teacher.opened == 0
        gateway.policy = policy
        gateway.escalations.follow()
        gateway.escalations.follow()
        await turns()
        assert gateway.teacher.opened == 1

    run(scenario)


def test_closing_answers_all_that_wait_by_their_student():
    async def scenario(gateway: Gateway) -> None:
        gateway.teacher.go.clear()
        answers = [gateway.ask(*[pixel] * 40) for pixel in range(1, 6)]
        await turns()
        await gateway.escalations.close()
        for answer in answers:
            assert by(await answer)[0] == ("a", "student")
        assert gateway.teacher.closed
        assert len(gateway.told) == 200
        assert by(await gateway.ask(7)) == [("a", "student")]

    run(scenario)


CURVE = CascadeCurve(
    validation_images=100, test_images=100, student_accuracy=0.9, teacher_accuracy=0.95,
    points=tuple(
        CascadePoint(chosen_share=share, threshold=threshold, share=share, accuracy=0.9)
        for share, threshold in ((0.0, 0.0), (0.1, 0.6), (0.2, 0.8), (1.0, 1.0))
    ),
)  # fmt: skip


def test_a_share_becomes_the_students_own_threshold():
    described = card("s-1", b"").model_copy(update={"cascade": CURVE})
    found = [threshold_of(described, Cascade(share=share)) for share in (0.05, 0.1, 0.15, 0.6)]
    assert found == pytest.approx([0.3, 0.6, 0.7, 0.9])


def test_a_threshold_holds_as_it_is_given():
    assert threshold_of(card("s-1", b""), Cascade(threshold=0.7)) == 0.7


@pytest.mark.parametrize("cascade", [Cascade(threshold=0.7), Cascade(share=0.1)])
def test_there_is_no_threshold_without_a_teacher_or_for_a_share_without_a_curve(cascade):
    described = card("s-1", b"").model_copy(update={"cascade": CURVE})
    assert threshold_of(described.model_copy(update={"teacher": None}), cascade) is None
    assert threshold_of(card("s-1", b""), Cascade(share=0.1)) is None
