"""Knows that the process was told to stop, from the moment of the signal.

The server ends the app's lifespan only after the last connection has closed, which is too late for streams
that would go on and for a readiness that should turn red first.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Draining:
    """A flag that SIGTERM or SIGINT raises. The server's own handlers still run."""

    def __init__(self) -> None:
        self.begun = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Raise the flag on a signal while the context lasts; outside the main thread do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def note(number: int, frame: FrameType | None) -> None:
            self.begun = True
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)

        for number in SIGNALS:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until the next quarter of a second after the signal."""
        left = seconds
        while left > 0 and not self.begun:
            await asyncio.sleep(min(left, 0.25))
            left -= 0.25
