"""Where teachers answer: one forward pass for several requests, each at its own temperature."""

import time
import weakref
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.teacher.batching import Answers
from services.teacher.lanes import Part
from services.teacher.pace import Pace, measured
from shared.models.answering import AnsweringTeacher
from shared.models.ensemble import merge_logits

_ELSEWHERE_ROWS: Final = 64
_ELSEWHERE_S: Final = 0.001
"""Of a model on another machine, which is not measured: each call of it is paid for there."""


class TeacherDevice(Protocol):
    """A device as the batcher wants it, for teachers of any kind."""

    def overlaps(self, model: AnsweringTeacher) -> bool:
        """Return whether a batch may be started while one of this teacher still computes."""

    def pace(self, model: AnsweringTeacher) -> Pace:
        """Return how fast a teacher is; one that is new is warmed up and measured first."""

    def start(self, model: AnsweringTeacher, parts: Sequence[Part]) -> Callable[[], Answers]:
        """Begin a batch; what is returned waits for its softened logits z/T."""


def device_name(device: torch.device) -> str:
    """Return the device in words: `cpu`, or `cuda` with the name of the card."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


class Cpu:
    """Forward passes in main memory, or wherever else a teacher computes by itself.

    A pass is timed by the processor time of the thread that runs it.

    Args:
        max_batch_rows: most rows of a pass.
        longest_s: no larger pass is measured once one takes longer.
    """

    _clock = staticmethod(time.thread_time)

    def __init__(self, *, max_batch_rows: int, longest_s: float) -> None:
        self._max_batch_rows = max_batch_rows
        self._longest_s = longest_s
        self._paces: weakref.WeakKeyDictionary[AnsweringTeacher, Pace] = weakref.WeakKeyDictionary()

    def overlaps(self, model: AnsweringTeacher) -> bool:
        """Say that no batch is begun before the one before it is done."""
        return False

    def pace(self, model: AnsweringTeacher) -> Pace:
        """Return how fast a teacher is; one that is new is warmed up and measured first."""
        pace = self._paces.get(model)
        if pace is None:
            pace = self._paces[model] = _fixed(model) if model.elsewhere else self._measured(model)
        return pace

    def start(self, model: AnsweringTeacher, parts: Sequence[Part]) -> Callable[[], Answers]:
        """Compute a batch: there is nothing to wait for."""
        began = time.thread_time()
        found = answer(model, parts)
        if not model.elsewhere and (pace := self._paces.get(model)) is not None:
            pace.observe(sum(len(part.images) for part in parts), time.thread_time() - began)
        return lambda: found

    def _measured(self, model: AnsweringTeacher) -> Pace:
        def forward(rows: int) -> None:
            self.start(model, [Part(black(model, rows), 1.0)])()

        most_rows = min(self._max_batch_rows, model.most_rows or self._max_batch_rows)
        return measured(forward, most_rows=most_rows, longest_s=self._longest_s, clock=self._clock)


def answer(model: AnsweringTeacher, parts: Sequence[Part]) -> Answers:
    """Return the softened logits z/T of each part, rows with zero mean; one forward pass for all.

    A row of which the teacher says numbers that are not finite is NaN all over; one that only z/T takes out
    of the range of float32 is not finite, and no NaN.
    """
    images = [part.images for part in parts]
    # What came in one request is taken as it lies there; several have to be joined.
    joined = torch.from_numpy(images[0] if len(images) == 1 else np.concatenate(images))
    members = model.member_logits(joined)
    return split(soften(members, parts, model), parts)


def soften(members: Tensor, parts: Sequence[Part], model: AnsweringTeacher) -> Tensor:
    """Return z/T of all parts, in their order, from members x batch x classes: float32, on the device.

    The members' logits do not depend on T: only the merging is done again for each T that occurs.
    """
    with torch.inference_mode():
        merged = [
            merge_logits(rows, temperature=temperature, merge=model.merge)
            for rows, temperature in _runs(members, parts)
        ]
        rows = merged[0] if len(merged) == 1 else torch.cat(merged)
        # Where one number of a row is not finite its mean is not, and then nothing of the row is.
        of_model = torch.isfinite(members).all(-1).all(0).unsqueeze(-1)
        return torch.where(of_model, rows.nan_to_num(torch.inf, torch.inf, -torch.inf), torch.nan)


def split(rows: Tensor, parts: Sequence[Part]) -> Answers:
    """Return what belongs to each part, as views on memory that the CPU can read."""
    array: NDArray[np.float32] = rows.cpu().numpy()
    ends = list(accumulate(len(part.images) for part in parts))
    return [array[end - len(part.images) : end] for part, end in zip(parts, ends, strict=True)]


def black(model: AnsweringTeacher, rows: int) -> NDArray[np.uint8]:
    """Return images that a teacher takes, to warm it up with."""
    size = model.description.preprocessing.input
    return np.zeros((rows, size.height, size.width, size.channels), np.uint8)


def _runs(members: Tensor, parts: Sequence[Part]) -> list[tuple[Tensor, float]]:
    """Return the rows of neighbouring parts of one temperature together, with that temperature."""
    runs = []
    start = stop = 0
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        stop += len(part.images)
        if following is None or following.temperature != part.temperature:
            runs.append((members[:, start:stop], part.temperature))
            start = stop
    return runs


def _fixed(model: AnsweringTeacher) -> Pace:
    rows = model.most_rows or _ELSEWHERE_ROWS
    return Pace(dict.fromkeys((1 << power for power in range(rows.bit_length())), _ELSEWHERE_S))
