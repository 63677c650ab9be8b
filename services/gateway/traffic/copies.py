"""Copies of requests that wait until somebody else is asked: so many and no more, whatever hangs."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from shared.serving.session import StudentSession


class Copy(NamedTuple):
    """A request that was answered, and that somebody else is to be asked about."""

    student: StudentSession
    """Who answered it."""
    pixels: Sequence[bytes]
    """An element an image, as that student saw it."""
    named: Sequence[int]
    """The class that it named, for each image."""
    of: StudentSession | None = None
    """Which student is to be asked; None for the teacher of the one that answered."""


class Copies:
    """Copies in the order of their coming. Filled by the event loop, emptied by a thread.

    Args:
        most_images: that may wait.
        most_bytes: of pixels that may wait.
    """

    def __init__(self, *, most_images: int, most_bytes: int) -> None:
        self._most_images = most_images
        self._most_bytes = most_bytes
        self._images = 0
        self._size_bytes = 0
        self._waiting: deque[Copy] = deque()
        self._lock = threading.Lock()

    def add(self, copy: Copy) -> bool:
        """Let a copy wait; return False where there is no room for it."""
        images, size_bytes = _size(copy)
        with self._lock:
            if self._images + images > self._most_images or self._size_bytes + size_bytes > self._most_bytes:
                return False
            self._waiting.append(copy)
            self._images += images
            self._size_bytes += size_bytes
        return True

    def take(self, most_images: int) -> list[Copy]:
        """Return the next copies that one question is enough for: answered by one student, for one other.

        At least one where any waits, however many images it has.
        """
        taken: list[Copy] = []
        room = most_images
        with self._lock:
            while self._waiting:
                copy = self._waiting[0]
                images, size_bytes = _size(copy)
                if taken and (
                    images > room or copy.student is not taken[0].student or copy.of is not taken[0].of
                ):
                    break
                taken.append(self._waiting.popleft())
                room -= images
                self._images -= images
                self._size_bytes -= size_bytes
        return taken

    def clear(self) -> None:
        """Forget what waits."""
        with self._lock:
            self._waiting.clear()
            self._images = self._size_bytes = 0


def _size(copy: Copy) -> tuple[int, int]:
    # All images of a request have the size that the student takes.
    return len(copy.pixels), len(copy.pixels) * len(copy.pixels[0])
