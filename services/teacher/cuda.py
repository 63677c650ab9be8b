"""Forward passes on a GPU: recorded once for each size, and copied to while the pass before them computes.

A net of many small layers leaves a GPU waiting for Python; a CUDA graph replays all of a pass at once. Graphs
are of fixed size, so a batch is filled up to the next power of two. The model thread begins a batch before it
waits for the one before it: while that computes, pixels go by way of pinned memory and a stream of their own.
"""

import logging
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.teacher.batching import Answers
from services.teacher.device import Cpu, soften, split
from services.teacher.lanes import Part
from shared.models.answering import AnsweringTeacher
from shared.models.ensemble import StackedEnsemble

log = logging.getLogger(__name__)

_WARM_UP_PASSES = 2
"""Before a pass is recorded: libraries choose their kernels and take their memory in these."""


@dataclass(frozen=True)
class _Recorded:
    """A pass over a fixed number of rows, with the memory that it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    members: Tensor

    def replay(self, images: Tensor) -> Tensor:
        """Return members x batch x classes for at most as many rows; valid until the next replay."""
        rows = len(images)
        self.images[:rows].copy_(images)
        self.graph.replay()
        return self.members[:, :rows]


class Cuda(Cpu):
    """Forward passes on a GPU; teachers that compute elsewhere, or on the CPU, are answered as `Cpu` does.

    Args:
        device: the GPU.
        max_batch_rows: most rows of a pass.
        longest_s: no larger pass is measured, or recorded, once one takes longer.
    """

    _clock = staticmethod(time.perf_counter)

    def __init__(self, device: torch.device, *, max_batch_rows: int, longest_s: float) -> None:
        super().__init__(max_batch_rows=max_batch_rows, longest_s=longest_s)
        self._device = device
        self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._recorded: weakref.WeakKeyDictionary[AnsweringTeacher, dict[int, _Recorded | None]] = (
            weakref.WeakKeyDictionary()
        )

    def overlaps(self, model: AnsweringTeacher) -> bool:
        """Return whether this teacher computes on the GPU, so that the CPU is free meanwhile."""
        return model.device.type == "cuda" and not model.elsewhere

    def start(self, model: AnsweringTeacher, parts: Sequence[Part]) -> Callable[[], Answers]:
        """Queue a batch on the GPU; what is returned waits for its softened logits z/T."""
        if not self.overlaps(model):
            return super().start(model, parts)
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copying):
            images = _pinned(parts).to(self._device, non_blocking=True)
        computing.wait_stream(self._copying)
        images.record_stream(computing)  # its memory belongs to the other stream
        rows = soften(self._members(model, images), parts, model)
        found = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        found.copy_(rows, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(computing)

        def wait() -> Answers:
            done.synchronize()
            return split(found, parts)

        return wait

    def _members(self, model: AnsweringTeacher, images: Tensor) -> Tensor:
        # A generalist with specialists looks at its own answers on the way, which no graph can.
        if type(model) is not StackedEnsemble:
            return model.member_logits(images)
        size = 1 << (len(images) - 1).bit_length()
        recorded = self._recorded.setdefault(model, {})
        if size not in recorded:
            recorded[size] = self._record(model, images.new_zeros((size, *images.shape[1:])))
        found = recorded[size]
        return model.member_logits(images) if found is None else found.replay(images)

    def _record(self, model: StackedEnsemble, images: Tensor) -> _Recorded | None:
        """Return a recorded pass, or None where the model's operations cannot be recorded."""
        graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP_PASSES):
                model.member_logits(images)
        torch.cuda.synchronize(self._device)
        try:
            # The outer stream comes back also where recording breaks off. Of this thread alone: others load
            # teachers meanwhile.
            with (
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"),
            ):
                members = model.member_logits(images)
        except RuntimeError as error:
            torch.cuda.synchronize(self._device)
            log.warning(
                "a forward pass cannot be recorded and is run step by step",
                extra={"teacher": model.description.name, "rows": len(images), "detail": str(error)[:500]},
            )
            return None
        return _Recorded(graph, images, members)


def _pinned(parts: Sequence[Part]) -> Tensor:
    """Return all images in one tensor, in memory that the GPU reads by itself."""
    rows = sum(len(part.images) for part in parts)
    pinned = torch.empty((rows, *parts[0].images.shape[1:]), dtype=torch.uint8, pin_memory=True)
    np.concatenate([part.images for part in parts], out=pinned.numpy())
    return pinned
