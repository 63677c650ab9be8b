"""Nets that are trained apart, on threads of their own where the CPU has some.

Two nets on a thread each take less time than one after the other on two: threads that share one net's small
operations mostly wait for each other. Each net is computed by one thread as it would be by that number of
threads alone, so nothing depends on who finishes first.
"""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

import torch

log = logging.getLogger(__name__)

_T = TypeVar("_T")


@runtime_checkable
class Each(Protocol):
    """Does something with each of the things numbered from 0, and returns what came of it, in order."""

    def __call__(self, work: Callable[[int], _T], /) -> list[_T]:
        """Raise what the first that failed raised, after all have ended."""
        ...


def one_by_one(things: int) -> Each:
    """Return an `Each` that takes them in turn."""

    def each(work: Callable[[int], _T]) -> list[_T]:
        return [work(thing) for thing in range(things)]

    return each


@contextmanager
def side_by_side(things: int, device: torch.device) -> Iterator[Each]:
    """Provide an `Each` that takes as many at once as PyTorch has threads, and gives each its share of them.

    On a GPU, with one thread or with one thing they are taken in turn.
    """
    threads = torch.get_num_threads()
    at_once = min(things, threads) if device.type == "cpu" else 1
    if at_once == 1:
        yield one_by_one(things)
        return

    def start() -> None:
        # Counts for the thread that says it.
        torch.set_num_threads(threads // at_once)

    with ThreadPoolExecutor(at_once, thread_name_prefix="nets", initializer=start) as pool:

        def each(work: Callable[[int], _T]) -> list[_T]:
            futures = [pool.submit(work, thing) for thing in range(things)]
            wait(futures)
            return [future.result() for future in futures]

        try:
            yield each
        finally:
            # What threads started later take over is what was said last, wherever it was.
            torch.set_num_threads(threads)


@contextmanager
def threads_as_before(threads: int, device: torch.device) -> Iterator[int]:
    """Let PyTorch use the threads that a training began with; provide how many it uses.

    Another number sums in another order, so that the last bits differ. Where this machine has fewer CPUs than
    that they would only wait for each other: then it keeps its own number, and says so.
    """
    own = torch.get_num_threads()
    if device.type != "cpu" or threads == own:
        yield own
    elif threads > (os.cpu_count() or 1):
        log.warning(
            "training goes on with another number of threads: its last bits will differ",
            extra={"threads": own, "before": threads},
        )
        yield own
    else:
        log.info("training goes on with the threads that it began with", extra={"threads": threads})
        torch.set_num_threads(threads)
        try:
            yield threads
        finally:
            torch.set_num_threads(own)
