"""The cascade: where the student is not sure of an image its teacher answers, or else the student after all.

Nobody waits longer than the deadline, and a teacher that is late, away or another one costs no answer: the
student's is there already. While a few questions are in flight, images that come wait for one of them to end
and then go together.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32
from prometheus_client import Counter, Histogram

from services.gateway.hot.answered import DIGITS, Found, Uncertain
from services.gateway.hot.answers import body
from services.gateway.traffic.teacher import TeacherAsker, has_teacher
from shared.contracts.students import StudentCard
from shared.contracts.traffic import Cascade, TrafficPolicy
from shared.errors import DeadlineExceeded, DistillationError
from shared.serving.images import stacked
from shared.serving.session import StudentSession

log = logging.getLogger(__name__)

_DEADLINE_S: Final = 0.25
"""For a request that asks for the cascade where no policy says how long the teacher may take."""
_MOST_IMAGES: Final = 64
"""In one question; a request with more uncertain images is one question nevertheless."""
_MOST_WAITING: Final = 256
"""Images that wait for a question to end; the student answers where more would."""
_WAY_BACK_S: Final = 0.002
"""Before its deadline a request is answered by the student, so that the answer is in time."""

Outcome = Literal["teacher", "late", "failed", "refused"]
"""Of an escalated image: the teacher answered; it was too late; it failed; it was not asked, as it had failed
too often or too much waited."""

ESCALATED = Counter(
    "imago_escalated_images_total", "Images that the student was not sure of", ["student", "outcome"]
)
TEACHER_SECONDS = Histogram(
    "imago_escalation_seconds",
    "From an image's escalation to its answer",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)


class Escalated(NamedTuple):
    """An image that the student was not sure of, after its request was answered."""

    student: StudentSession
    pixels: bytes
    """As the student took them."""
    teacher: Float32[np.ndarray, " classes"] | None
    """What the teacher said of it, in the order of the student's classes; None where it said nothing. The
    client's answer is the student's where that came too late."""


Looker = Callable[[Escalated], None]
"""Called on the event loop; it must not block and never raises."""


class _Waiting:
    """A request that has its student's answer and waits for a better one."""

    __slots__ = ("asked", "began", "found", "images", "timer")

    def __init__(self, uncertain: Uncertain, images: list[int], began: float) -> None:
        self.asked, self.found = uncertain
        self.images = images
        """Those of its images that the student is not sure of."""
        self.began = began
        self.timer: asyncio.TimerHandle | None = None
        """Until it is answered."""


class Escalations:
    """Takes requests as `Batches.escalate`, and calls their `done`. Lives on the event loop.

    Args:
        asker: of the teacher service.
        policy: returns what holds now; it says how long the teacher may take.
    """

    def __init__(self, asker: TeacherAsker, policy: Callable[[], TrafficPolicy]) -> None:
        self.on_escalated: list[Looker] = []
        """Are told of each escalated image, and of what the teacher said."""
        self._asker = asker
        self._policy = policy
        self._queue: deque[_Waiting] = deque()
        self._questions: set[asyncio.Task[None]] = set()
        self._opening: asyncio.Task[None] | None = None
        self._scheduled = False
        self._closed = False

    def __call__(self, uncertain: Uncertain) -> None:
        """Answer the request by its teacher where that is in time, else by its student."""
        asked, found = uncertain
        threshold = asked.threshold
        assert threshold is not None  # or it is not uncertain
        images = [image for image, ranked in enumerate(found.ranked) if ranked[0] < threshold]
        waiting = _Waiting(uncertain, images, time.perf_counter())
        if not has_teacher(asked.student.card):
            self._answer(waiting, found)
            return
        left_s = self._deadline_s()
        if asked.deadline is not None:
            left_s = min(left_s, asked.deadline - waiting.began - _WAY_BACK_S)
        others = sum(len(other.images) for other in self._queue)
        full = others and others + len(images) > _MOST_WAITING
        if left_s <= 0 or full or self._closed or not self._asker.able(asked.student.card):
            self._leave(waiting, "late" if left_s <= 0 else "refused")
            self._tell(waiting, None)
            return
        loop = asyncio.get_running_loop()
        waiting.timer = loop.call_later(left_s, self._late, waiting)
        self._queue.append(waiting)
        if not self._scheduled:
            self._scheduled = True
            # What this turn of the loop escalates goes together.
            loop.call_soon(self._ask)

    def follow(self) -> None:
        """Get ready to ask where the policy has a cascade: the first question shall be in time, too."""
        if self._policy().cascade is not None and self._opening is None and not self._closed:
            self._opening = asyncio.get_running_loop().create_task(self._asker.open())

    async def close(self) -> None:
        """Answer all that wait by their students, and close the connections."""
        self._closed = True
        await asyncio.sleep(0)  # a question that has not begun could not say what becomes of it
        questions = list(self._questions)
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)
        for waiting in [*self._queue]:
            self._late(waiting)
        if self._opening is not None:
            await self._opening
        await self._asker.close()

    def _deadline_s(self) -> float:
        cascade = self._policy().cascade
        return _DEADLINE_S if cascade is None else cascade.deadline_ms / 1000

    def _ask(self) -> None:
        self._scheduled = False
        while self._queue and not self._closed and len(self._questions) < self._asker.most_in_flight:
            question = asyncio.get_running_loop().create_task(self._question(self._take()))
            self._questions.add(question)
            question.add_done_callback(self._ended)

    def _ended(self, question: "asyncio.Task[None]") -> None:
        self._questions.discard(question)
        if not question.cancelled() and (error := question.exception()) is not None:
            log.error("a question to the teacher failed", exc_info=error)
        self._ask()

    def _take(self) -> list[_Waiting]:
        """Return the requests of the next question, all of one student, in the order of their coming."""
        batch = [self._queue.popleft()]
        images = len(batch[0].images)
        while self._queue:
            waiting = self._queue[0]
            images += len(waiting.images)
            if waiting.asked.student is not batch[0].asked.student or images > _MOST_IMAGES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _question(self, batch: list[_Waiting]) -> None:
        student = batch[0].asked.student
        pixels = [waiting.asked.pixels[image] for waiting in batch for image in waiting.images]
        answers: Float32[np.ndarray, "images classes"] | None = None
        outcome: Outcome = "failed"
        try:
            answers = await self._asker.ask(
                student.card, stacked(pixels, student.input), deadline_s=self._deadline_s()
            )
        except DeadlineExceeded:
            outcome = "late"
        except DistillationError as error:
            log.info("the teacher did not help", extra={"student": student.version, "reason": str(error)})
        finally:
            first = 0
            for waiting in batch:
                end = first + len(waiting.images)
                own = answers[first:end] if answers is not None else None
                if waiting.timer is None:
                    pass  # the student has answered: it was too late
                elif own is None:
                    self._leave(waiting, outcome)
                else:
                    self._count(waiting, "teacher")
                    self._answer(waiting, taught(waiting.found, waiting.images, own))
                self._tell(waiting, own)
                first = end

    def _late(self, waiting: _Waiting) -> None:
        """Let the student answer a request whose time has passed."""
        self._leave(waiting, "late")
        if waiting in self._queue:
            self._queue.remove(waiting)
            self._tell(waiting, None)  # else the question tells what it brings

    def _leave(self, waiting: _Waiting, outcome: Outcome) -> None:
        """Let the student answer."""
        self._count(waiting, outcome)
        self._answer(waiting, waiting.found)

    def _count(self, waiting: _Waiting, outcome: Outcome) -> None:
        ESCALATED.labels(waiting.asked.student.version, outcome).inc(len(waiting.images))
        TEACHER_SECONDS.observe(time.perf_counter() - waiting.began)

    def _answer(self, waiting: _Waiting, found: Found) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
            waiting.timer = None
        asked = waiting.asked
        asked.done(body(asked, found) if asked.encode is None else asked.encode(asked, found))

    def _tell(self, waiting: _Waiting, answers: Float32[np.ndarray, "images classes"] | None) -> None:
        for place, image in enumerate(waiting.images):
            teacher = None if answers is None else answers[place]
            escalated = Escalated(waiting.asked.student, waiting.asked.pixels[image], teacher)
            for looker in self.on_escalated:
                looker(escalated)


def taught(found: Found, images: Sequence[int], answers: Float32[np.ndarray, "images classes"]) -> Found:
    """Return what was found with the teacher's answers in place of the student's for some images.

    Args:
        found: what the student says of the images of a request.
        images: which of them, in order.
        answers: the teacher's probabilities at T = 1 of these, in the order of the student's classes. They
            are told to as many decimals as a student's: more would say more of the teacher.
    """
    told = answers.astype(np.float64).round(DIGITS)
    probabilities = found.probabilities.copy()
    probabilities[list(images)] = told
    order, ranked = list(found.order), list(found.ranked)
    for image, answer in zip(images, told, strict=True):
        order[image] = np.argsort(-answer, kind="stable")[: len(order[image])].tolist()
        ranked[image] = answer[order[image]].tolist()
    return found._replace(order=order, ranked=ranked, probabilities=probabilities, by_teacher=tuple(images))


def threshold_of(card: StudentCard, cascade: Cascade) -> float | None:
    """Return the confidence below which a student's teacher is asked; None where it never is.

    A share of images becomes the threshold that the curve on the card has for it; between two points of the
    curve, the line between them.
    """
    if not has_teacher(card):
        return None
    if cascade.threshold is not None:
        return cascade.threshold
    if card.cascade is None or cascade.share is None:
        return None
    points = card.cascade.points
    return float(
        np.interp(cascade.share, [one.chosen_share for one in points], [one.threshold for one in points])
    )
