"""One request for predictions on its way: what was asked, since when, until when, and who waits."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from shared.errors import DeadlineExceeded, InvalidDeadline
from shared.serving.session import StudentSession

DEADLINE_HEADER = "X-Deadline-Ms"
MOST_DEADLINE_MS = 3_600_000

if TYPE_CHECKING:
    from services.gateway.hot.answered import Found

Done = Callable[[bytes | Exception], None]
"""Takes the JSON of the answer, or what went wrong. Called once, on the event loop."""
Encode = Callable[["Asked", "Found"], bytes]
"""Writes the answer to a request from what was found of its images."""


class Options(NamedTuple):
    """What a client asked for beside its images."""

    began: float
    """`time.perf_counter()` when the request came."""
    top: int
    """How many classes to answer."""
    deadline: float | None = None
    """`time.perf_counter()` after which nobody wants the answer."""
    threshold: float | None = None
    """Confidence below which the teacher is asked, 0 for never; None where the policy decides."""


class Asked:
    """Decoded images that wait for their student."""

    __slots__ = (
        "began",
        "deadline",
        "decode_s",
        "done",
        "encode",
        "files",
        "pixels",
        "queued",
        "student",
        "threshold",
        "top",
    )

    def __init__(
        self,
        student: StudentSession,
        pixels: Sequence[bytes],
        files: Sequence[str | None],
        options: Options,
        *,
        decode_s: float,
        done: Done,
        threshold: float | None = None,
        encode: "Encode | None" = None,
    ) -> None:
        self.student = student
        """Who answers, whatever is promoted meanwhile."""
        self.pixels = pixels
        """An element an image, as `shared.serving.images.pixels` gives them."""
        self.files = files
        """The clients' names for the images."""
        self.top = options.top
        self.began = options.began
        self.queued = options.began
        """`time.perf_counter()` when it began to wait for the student."""
        self.decode_s = decode_s
        self.deadline = options.deadline
        self.done = done
        self.threshold = threshold
        """Confidence below which the teacher is asked; None where it never is."""
        self.encode = encode
        """Writes the answer in another form than a `PredictionAnswer`."""


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


def need_time(options: Options) -> None:
    """Raise `DeadlineExceeded` where the deadline has passed."""
    if options.deadline is not None and time.perf_counter() > options.deadline:
        raise DeadlineExceeded(options.deadline - options.began)
