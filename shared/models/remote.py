"""A teacher behind a server: its tensors are made here, its numbers computed there.

How a server is spoken to is the business of whoever hands one in (`shared.adapters.oip`).
"""

import time
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from shared.contracts.teachers import Merge, RemoteModel, TeacherDescription
from shared.errors import TeacherChanged
from shared.models.ensemble import softened
from shared.models.normalise import need_images
from shared.models.probes import Probe
from shared.models.wholes import logits_out, tensor_in

ADD_AGAIN: Final = "Add the teacher again to accept what it is now, then submit the job again."


@runtime_checkable
class Server(Protocol):
    """A model on a server, over whatever protocol."""

    @property
    def most_rows(self) -> int:
        """Images that are best asked about together: what one call takes, times the calls side by side."""

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return what the model's output says of a batch as its input takes it, any number of rows.

        Raises:
            TeacherUnavailable: it does not answer; later it may.
            TeacherAnswerInvalid: it answers something that is no such tensor.
        """

    def close(self) -> None:
        """Close all connections."""


class RemoteTeacher:
    """A model on a server that answers as one member.

    Its weights cannot be seen, so the probe stands for them: the server is asked about its images first, and
    again while it is asked, and must say what it said when it was added.

    Args:
        description: of the teacher; its model is a `RemoteModel`.
        server: that answers.
        probe: what it said when it was added; None while it is being added.
        probe_every_s: how old a comparison may be, in seconds.
        clock: gives seconds that never go back.
    """

    elsewhere = True
    merge: Merge = "geometric"

    def __init__(
        self,
        description: TeacherDescription,
        server: Server,
        probe: Probe | None,
        *,
        probe_every_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert isinstance(description.model, RemoteModel), "told apart by teacher_of"
        self.description = description
        self.device = torch.device("cpu")
        self._model = description.model
        self._server = server
        # When the last one who asks has let it go.
        weakref.finalize(self, server.close)
        self._probe = probe
        self._probe_every_s = probe_every_s
        self._clock = clock
        self._compared_at: float | None = None

    @property
    def most_rows(self) -> int | None:
        """Images that the server answers side by side."""
        return self._server.most_rows

    def member_logits(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "1 batch classes"]:
        """Return the server's logits.

        Raises:
            InputMismatch: the images are not of the size and channels that the teacher takes.
            TeacherUnavailable: the server does not answer; later it may.
            TeacherAnswerInvalid: it answers something that cannot be logits of these images.
            TeacherChanged: it answers the probe otherwise than when it was added.
        """
        need_images(images, self.description.preprocessing.input, self._whose)
        self._compare()
        return self._ask(images)

    def softened_logits(
        self, images: UInt8[Tensor, "batch height width channels"], *, temperature: float
    ) -> Float[Tensor, "batch classes"]:
        """Return softened logits z/T with zero mean in each row, in float32.

        Raises:
            InvalidTemperature: T is not a finite number above 0.
            DistillationError: what `member_logits` raises.
        """
        return softened(self, images, temperature)

    @property
    def _whose(self) -> str:
        return f"teacher {self.description.name!r}"

    def _ask(self, images: UInt8[Tensor, "batch height width channels"]) -> Float[Tensor, "1 batch classes"]:
        with torch.inference_mode():
            batch = tensor_in(images.cpu(), self.description.preprocessing, self._model)
            answer = torch.from_numpy(np.ascontiguousarray(self._server.infer(batch.numpy())))
            return logits_out(
                answer,
                self._model,
                rows=len(images),
                classes=len(self.description.classes),
                whose=self._whose,
            )

    def _compare(self) -> None:
        """Ask about the probe where the last comparison is too old."""
        if self._probe is None:
            return
        now = self._clock()
        if self._compared_at is not None and now - self._compared_at < self._probe_every_s:
            return
        found = self._ask(torch.from_numpy(self._probe.images)).squeeze(0).numpy()
        difference = self._probe.difference(found, self._model.answers)
        if not difference <= 1:
            raise TeacherChanged(
                self.description.name,
                self.description.digest,
                "",
                reason=(
                    "its server answers the probe images otherwise than when it was added, by "
                    f"{difference:.3g} times what rounding explains"
                ),
                remedy=ADD_AGAIN,
            )
        self._compared_at = now
