"""One batcher for the device here, and one for each teacher that another machine computes.

A call to a server waits for it, perhaps long; teachers that answer here need not wait with it.
"""

import weakref

from services.teacher.batching import Batcher, Limits
from services.teacher.device import TeacherDevice
from shared.models.answering import AnsweringTeacher


class Batchers:
    """The batcher of each teacher. Its methods are called by the event loop's thread.

    Args:
        device: does the forward passes.
        limits: of each batcher.
    """

    def __init__(self, device: TeacherDevice, limits: Limits) -> None:
        self._device = device
        self._limits = limits
        self._here: Batcher[AnsweringTeacher] = Batcher(device, limits)
        self._elsewhere: weakref.WeakKeyDictionary[AnsweringTeacher, Batcher[AnsweringTeacher]] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, model: AnsweringTeacher) -> Batcher[AnsweringTeacher]:
        """Return where a teacher is asked."""
        if not model.elsewhere:
            return self._here
        batcher = self._elsewhere.get(model)
        if batcher is None:
            batcher = self._elsewhere[model] = Batcher(self._device, self._limits)
            weakref.finalize(model, batcher.end)  # its thread ends with the teacher
        return batcher

    @property
    def able(self) -> bool:
        """Whether teachers are asked and answer."""
        return self._here.able

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._here.closing

    async def close(self) -> None:
        """Take nothing new, answer what waits, end the threads."""
        for batcher in (self._here, *self._elsewhere.values()):
            await batcher.close()
