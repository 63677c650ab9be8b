"""Signals of the processes that supervise: the first one ends politely, a second one at once."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_ONE_PRESS_S: Final = 1.0

Handler = Callable[[int, FrameType | None], None]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Let every signal that asks for an end raise KeyboardInterrupt, as Ctrl-C does.

    SIGINT is named too, because a shell starts background jobs with SIGINT ignored.
    """
    with _handled(_interrupt):
        yield


@contextmanager
def second_signal() -> Iterator[Callable[[], bool]]:
    """Hold signals back; the function that is handed out says whether one came.

    The first second does not count: one Ctrl-C or one `kill` can arrive twice, from the terminal or the
    process group and from a parent such as make.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    began = time.monotonic()

    def note(_number: int, _frame: FrameType | None) -> None:
        if time.monotonic() - began > _ONE_PRESS_S:
            came.set()

    with _handled(note):
        yield came.is_set


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in ENDING}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
