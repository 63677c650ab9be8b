"""Asks somebody else about copies of requests: in a thread, many images at once, where no client waits."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from services.gateway.traffic.copies import Copies, Copy
from services.gateway.traffic.teacher import TeacherAsker
from shared.serving.images import stacked

log = logging.getLogger(__name__)

MOST_IMAGES = 512
"""That wait for one thread."""
MOST_BYTES = 16 * 2**20
"""Of their pixels."""
_TOGETHER_IMAGES = 64
"""In one question."""
_TEACHER_DEADLINE_S = 10.0
_PATIENCE_S = 2.0
"""For a question that is under way when the process stops."""
_SILENCE_S = 60.0
"""Between two lines in the log about questions that failed."""


class Said(NamedTuple):
    """What somebody said of copies, image by image."""

    copies: Sequence[Copy]
    classes: Sequence[str]
    """The class named for each image."""
    indices: Sequence[int]
    """The same, in the order of the classes of who was asked."""
    confidence: Sequence[float]
    """The probability of that class."""
    seconds: float
    """Of the call."""


class Questions(Protocol):
    """Somebody who can be asked. Both methods are called in one thread."""

    def ask(self, copies: Sequence[Copy]) -> Said:
        """Return what they say, or raise whatever goes wrong."""
        ...

    def close(self) -> None:
        """Let go of what asking needed."""
        ...


class Asking:
    """A thread that asks, and the copies that wait for it. All methods are for the event loop.

    Args:
        name: of the thread, and in the log.
        questions: makes what is asked; called in the thread, when the first copy comes.
        said: is given what was said, on the event loop.
        lost: is given copies that nobody answered, and the error; on the event loop.
    """

    def __init__(
        self,
        name: str,
        questions: Callable[[], Questions],
        said: Callable[[Said], None],
        lost: Callable[[Sequence[Copy], Exception], None],
    ) -> None:
        self._name = name
        self._questions = questions
        self._said = said
        self._lost = lost
        self._copies = Copies(most_images=MOST_IMAGES, most_bytes=MOST_BYTES)
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._told = -_SILENCE_S

    def offer(self, copy: Copy) -> bool:
        """Ask about the copy when its turn comes; return False where too much waits already."""
        if self._stopping or not self._copies.add(copy):
            return False
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._wake.put(True)
        return True

    def stop(self) -> None:
        """End the thread, without those that wait. One that hangs ends with the process."""
        self._stopping = True
        self._copies.clear()
        if self._thread is not None:
            self._wake.put(False)
            self._thread.join(_PATIENCE_S)
            self._thread = None

    def _run(self) -> None:
        questions = self._questions()
        try:
            while self._wake.get():
                copies = self._copies.take(_TOGETHER_IMAGES)
                if copies:
                    self._ask(questions, copies)
        finally:
            questions.close()

    def _ask(self, questions: Questions, copies: Sequence[Copy]) -> None:
        try:
            said = questions.ask(copies)
        except Exception as error:  # whatever it is, the next ones are to be asked about
            if time.monotonic() - self._told > _SILENCE_S:
                self._told = time.monotonic()
                log.warning("copies were not answered", extra={"asked": self._name}, exc_info=error)
            self._tell(self._lost, copies, error)
        else:
            self._tell(self._said, said)

    def _tell(self, whom: Callable[..., None], *what: object) -> None:
        assert self._loop is not None
        # The loop is closed where this thread hung while the process stopped: then nobody counts any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(whom, *what)


class StudentQuestions:
    """Asks the student that each copy names."""

    def ask(self, copies: Sequence[Copy]) -> Said:
        """Return what the student says."""
        student = copies[0].of
        assert student is not None
        images = stacked([image for copy in copies for image in copy.pixels], student.input)
        began = time.perf_counter()
        probabilities = student.probabilities(images)
        seconds = time.perf_counter() - began
        indices: list[int] = probabilities.argmax(axis=1).tolist()
        confidence: list[float] = probabilities.max(axis=1).tolist()
        return Said(copies, [student.classes[index] for index in indices], indices, confidence, seconds)

    def close(self) -> None:
        """Do nothing."""


class TeacherQuestions:
    """Asks the teacher of the student that answered, on an event loop of its own.

    Args:
        urls: addresses of the teacher service's replicas, with commas between them.
        key: of this service, which the teacher asks for.
    """

    def __init__(self, urls: str, key: str | None = None) -> None:
        self._runner = asyncio.Runner()
        self._urls = urls
        self._key = key
        self._asker: TeacherAsker | None = None

    def ask(self, copies: Sequence[Copy]) -> Said:
        """Return what the teacher says at T = 1."""
        return self._runner.run(self._ask(copies))

    def close(self) -> None:
        """Close the connections."""
        if self._asker is not None:
            self._runner.run(self._asker.close())
        self._runner.close()

    async def _ask(self, copies: Sequence[Copy]) -> Said:
        if self._asker is None:
            # Jobs and users' questions before ours: nobody waits for these.
            self._asker = TeacherAsker(self._urls, lane="bulk", most_in_flight=1, key=self._key)
        student = copies[0].student
        images = stacked([image for copy in copies for image in copy.pixels], student.input)
        began = time.perf_counter()
        probabilities = await self._asker.ask(student.card, images, deadline_s=_TEACHER_DEADLINE_S)
        seconds = time.perf_counter() - began
        indices: list[int] = probabilities.argmax(axis=1).tolist()
        confidence: list[float] = probabilities.max(axis=1).tolist()
        return Said(copies, [student.classes[index] for index in indices], indices, confidence, seconds)
