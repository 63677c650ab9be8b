"""Shows copies of requests to somebody whose answers no client sees, and counts where they say otherwise.

Two things are copied. What the live student answered goes to the shadow, a student or the teacher, as the
policy says. What the canary answered goes to the live student, as its disagreement could not be known
otherwise. It all happens after the answers were sent. What does not fit is dropped and counted: a shadow that
hangs, fails or is slow costs its own figures and nothing else.
"""

import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from services.gateway.hot.answered import Answered
from services.gateway.hot.batches import Batches
from services.gateway.observability import metrics
from services.gateway.students.live import Live
from services.gateway.traffic.asking import Asking, Said, StudentQuestions, TeacherQuestions
from services.gateway.traffic.copies import Copy
from services.gateway.traffic.policy import Traffic
from services.gateway.traffic.teacher import has_teacher
from shared.contracts.traffic import Shadow as ShadowPolicy
from shared.errors import DeadlineExceeded
from shared.serving.session import StudentSession

log = logging.getLogger(__name__)

Differ = Callable[[StudentSession, bytes], None]
"""Takes the student that answered and the pixels of an image of which somebody else named another class."""

STUDENT: Final = "student"


class Shadow:
    """Who is asked beside the student that answers. All methods are for the event loop.

    Args:
        batches: whose answers are looked at, while there is something to copy.
        traffic: the policy.
        live: the student that answers.
        teacher_urls: addresses of the teacher service's replicas, with commas between them.
        teacher_key: of this service, which the teacher asks for.
        differ: is told of each image on which the two did not agree.
    """

    def __init__(
        self,
        batches: Batches,
        traffic: Traffic,
        live: Live,
        *,
        teacher_urls: str,
        teacher_key: str | None = None,
        differ: Differ,
    ) -> None:
        self._batches = batches
        self._traffic = traffic
        self._live = live
        self._differ = differ
        self._asking = {
            metrics.LIVE: self._thread(metrics.LIVE, StudentQuestions, self._live_said),
            STUDENT: self._thread(STUDENT, StudentQuestions, self._student_said),
            metrics.TEACHER: self._thread(
                metrics.TEACHER, partial(TeacherQuestions, teacher_urls, teacher_key), self._teacher_said
            ),
        }

    def follow(self) -> None:
        """Look on where the policy has something to copy, and only there."""
        policy = self._traffic.policy
        wanted = policy.canary is not None or policy.shadow is not None
        if wanted and self.observe not in self._batches.observers:
            self._batches.observers.append(self.observe)
            log.info("requests are copied")
        elif not wanted and self.observe in self._batches.observers:
            self._batches.observers.remove(self.observe)
            log.info("requests are copied no more")

    def stop(self) -> None:
        """Ask nobody any more; blocks for as long as a question under way takes, two seconds at most."""
        for asking in self._asking.values():
            asking.stop()

    def observe(self, answered: Answered) -> None:
        """Copy what the policy wants copied of the requests that one call has answered."""
        student = answered.batch[0].student
        live = self._live.current
        policy = self._traffic.policy
        if live is not None and student is not live and student is self._traffic.canary:
            self._copy(answered, metrics.LIVE, 1.0, live)
        if policy.shadow is not None:
            self._shadow(answered, policy.shadow, student, live)

    def _shadow(
        self, answered: Answered, shadow: ShadowPolicy, student: StudentSession, live: StudentSession | None
    ) -> None:
        if shadow.to == metrics.TEACHER:
            if has_teacher(student.card):
                self._copy(answered, metrics.TEACHER, shadow.share, None)
            else:
                _dropped(metrics.TEACHER, "no_teacher", len(answered.found.order))
        elif student is live and student.version != shadow.version:
            candidate = self._traffic.shadow_student
            if candidate is not None:
                self._copy(answered, STUDENT, shadow.share, candidate)

    def _copy(self, answered: Answered, to: str, share: float, of: StudentSession | None) -> None:
        batch, found, _ = answered
        if of is not None and of.input != batch[0].student.input:
            # Another live student was promoted a moment ago, and the policy does not know yet.
            _dropped(to, "other_input", len(found.order))
            return
        asking = self._asking[to]
        first = 0
        for asked in batch:
            end = first + len(asked.pixels)
            if share >= 1 or random.random() < share:
                named = [ranks[0] for ranks in found.order[first:end]]
                if not asking.offer(Copy(asked.student, asked.pixels, named, of)):
                    _dropped(to, "full", end - first)
            first = end

    def _thread(
        self,
        to: str,
        questions: Callable[[], StudentQuestions | TeacherQuestions],
        said: Callable[[Said], None],
    ) -> Asking:
        return Asking(f"shadow-{to}", questions, said, partial(_lost, to))

    def _live_said(self, said: Said) -> None:
        """Compare the canary, which answered, with the live student."""
        live, canary = said.copies[0].of, said.copies[0].student
        assert live is not None
        metrics.shadowed(live, said.indices, said.confidence, said.seconds)
        self._compare(said, canary.version, metrics.LIVE, live.version)

    def _student_said(self, said: Said) -> None:
        """Compare the candidate with the live student, which answered."""
        candidate, live = said.copies[0].of, said.copies[0].student
        assert candidate is not None
        metrics.shadowed(candidate, said.indices, said.confidence, said.seconds)
        self._compare(said, candidate.version, metrics.LIVE, live.version)

    def _teacher_said(self, said: Said) -> None:
        """Compare the student that answered with its teacher."""
        student = said.copies[0].student
        assert student.card.teacher is not None
        self._compare(said, student.version, metrics.TEACHER, student.card.teacher)

    def _compare(self, said: Said, version: str, against: str, reference: str) -> None:
        image = disagreed = 0
        for copy in said.copies:
            for pixels, index in zip(copy.pixels, copy.named, strict=True):
                # By name: two students of one dataset may have its classes in another order.
                if copy.student.classes[index] != said.classes[image]:
                    disagreed += 1
                    self._differ(copy.student, pixels)
                image += 1
        metrics.compared(version, against, reference, images=image, disagreed=disagreed)


def _lost(to: str, copies: Sequence[Copy], error: Exception) -> None:
    reason = "late" if isinstance(error, DeadlineExceeded) else "failed"
    _dropped(to, reason, sum(len(copy.pixels) for copy in copies))


def _dropped(to: str, reason: str, images: int) -> None:
    metrics.DROPPED.labels(to, reason).inc(images)
