"""What one call of a student answered, for those who look on: metrics, shadow, canary, keeping."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float32

from services.gateway.hot.asked import Asked

DIGITS: Final = 6
"""Decimals of a probability: what float32 carries."""


class Found(NamedTuple):
    """What the student says of the images of a call, in the order of the images."""

    order: list[list[int]]
    """For each image its most probable classes, most probable first: as many as anybody asked for."""
    ranked: list[list[float]]
    """Their probabilities, to `DIGITS` decimals."""
    probabilities: Float32[np.ndarray, "images classes"]
    """Of all classes, in the order of the classes."""
    began: float
    """When the call began, as `time.perf_counter()`."""
    model_s: float
    """Seconds of the call."""
    by_teacher: tuple[int, ...] = ()
    """Places of the images that the teacher answered in the student's place."""


class Answered(NamedTuple):
    """A call after its answers were sent. All its requests were for one student."""

    batch: Sequence[Asked]
    found: Found
    encode_s: float
    """Seconds that writing all the answers took."""


class Uncertain(NamedTuple):
    """A request of which the student is not sure enough of an image; whoever takes it calls `asked.done`."""

    asked: Asked
    found: Found
    """Of the images of this request alone."""


Observer = Callable[[Answered], None]
"""Called on the event loop; it must not block and never raises."""
Escalate = Callable[[Uncertain], None]
