"""One request for predictions on its way: what was asked, since when, until when, and who waits."""

import time
from collections.abc import Callable, Sequence

from shared.errors import DeadlineExceeded, InvalidDeadline
from shared.serving.session import StudentSession

DEADLINE_HEADER = "X-Deadline-Ms"
MOST_DEADLINE_MS = 3_600_000

Done = Callable[[bytes | Exception], None]
"""Takes the JSON of the answer, or what went wrong. Called once, on the event loop."""


class Asked:
    """Decoded images that wait for their student."""

    __slots__ = ("began", "deadline", "decode_s", "done", "files", "pixels", "queued", "student", "top")

    def __init__(
        self,
        student: StudentSession,
        pixels: Sequence[bytes],
        files: Sequence[str | None],
        *,
        top: int,
        began: float,
        decode_s: float,
        deadline: float | None,
        done: Done,
    ) -> None:
        self.student = student
        """Who answers, whatever is promoted meanwhile."""
        self.pixels = pixels
        """An element an image, as `shared.serving.images.pixels` gives them."""
        self.files = files
        """The clients' names for the images."""
        self.top = top
        """How many classes to answer."""
        self.began = began
        """`time.perf_counter()` when the request came."""
        self.queued = began
        """`time.perf_counter()` when it began to wait for the student."""
        self.decode_s = decode_s
        self.deadline = deadline
        """`time.perf_counter()` after which nobody wants the answer."""
        self.done = done


def deadline_of(given: str | None, began: float) -> float | None:
    """Return when a request must have been answered, as `time.perf_counter()`; None where it does not say.

    Raises:
        InvalidDeadline: it is no whole number of milliseconds above 0.
    """
    if given is None:
        return None
    if given.isascii() and given.isdecimal() and len(given) <= 7 and 1 <= int(given) <= MOST_DEADLINE_MS:
        return began + int(given) / 1000
    raise InvalidDeadline(given[:32], MOST_DEADLINE_MS)


def need_time(deadline: float | None, began: float) -> None:
    """Raise `DeadlineExceeded` where the deadline has passed."""
    if deadline is not None and time.perf_counter() > deadline:
        raise DeadlineExceeded(deadline - began)
