"""Merges concurrent requests: whatever waits when the device gets free is its next batch.

No timer, so nothing waits for company that may not come. One thread owns the device. The queue is bounded in
rows; a request that finds no room is refused with the time after which there should be some.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge, Histogram

from shared.errors import QueueFull, ShuttingDown

log = logging.getLogger(__name__)

ROWS = Counter("imago_teacher_rows_total", "Images answered")
BATCH_ROWS = Histogram(
    "imago_teacher_batch_rows",
    "Images of one forward pass",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
)
BATCH_REQUESTS = Histogram(
    "imago_teacher_batch_requests", "Requests that share a forward pass", buckets=(1, 2, 4, 8, 16, 32, 64)
)
QUEUE_ROWS = Gauge("imago_teacher_queue_rows", "Images that wait for the device")
FORWARD_SECONDS = Histogram(
    "imago_teacher_forward_seconds",
    "Time of one forward pass, copies to and from the device included",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)

_LONGEST_RETRY_S = 60.0
_MEMORY_OF_RATE = 0.2
"""Weight of the newest batch in the measured seconds a row."""

ModelT = TypeVar("ModelT")


@dataclass(frozen=True)
class Part:
    """Rows of one request, or some of them, in a batch: uint8 N x H x W x C, and T."""

    images: NDArray[np.uint8]
    temperature: float


@dataclass(eq=False)
class _Order(Generic[ModelT]):
    """A request that waits: how many of its rows are taken, and what has been answered."""

    model: ModelT
    images: NDArray[np.uint8]
    temperature: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[NDArray[np.float32]]
    taken: int = 0
    answered: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return len(self.images) - self.taken


class Batcher(Generic[ModelT]):
    """One model thread and its bounded queue.

    Args:
        forward: answers the parts of one batch, all of one model: float32 N x classes for each part.
        max_batch_rows: most rows of one call of `forward`; larger requests are split.
        queue_rows: most rows that wait.
    """

    def __init__(
        self,
        forward: Callable[[ModelT, Sequence[Part]], list[NDArray[np.float32]]],
        *,
        max_batch_rows: int,
        queue_rows: int,
    ) -> None:
        self._forward = forward
        self._max_batch_rows = max_batch_rows
        self._queue_rows = queue_rows
        self._orders: deque[_Order[ModelT]] = deque()
        self._rows = 0
        self._seconds_a_row = 0.0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def able(self) -> bool:
        """Whether orders are taken and answered."""
        return self._thread.is_alive() and not self._closing

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    async def ask(
        self, model: ModelT, images: NDArray[np.uint8], *, temperature: float
    ) -> NDArray[np.float32]:
        """Return what `forward` answers for these rows; cancel the call, and rows not begun are dropped.

        Raises:
            QueueFull: there is no room for so many rows.
            ShuttingDown: `close` was called.
        """
        loop = asyncio.get_running_loop()
        order = _Order(model, images, temperature, loop, loop.create_future())
        with self._changed:
            if self._closing:
                raise ShuttingDown
            if self._rows + len(images) > self._queue_rows:
                # Requests whose clients have gone hold no room against those who are there.
                self._drop_gone()
            if self._rows + len(images) > self._queue_rows:
                raise QueueFull("images", self._queue_rows, self._retry_after_s())
            self._orders.append(order)
            self._count(len(images))
            self._changed.notify()
        return await order.future

    async def close(self) -> None:
        """Take nothing new, answer what waits, end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    # --- the model thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._answer(*batch)
            del batch  # while the thread waits it keeps no model from being forgotten

    def _answer(self, orders: list[_Order[ModelT]], parts: list[Part]) -> None:
        began = time.perf_counter()
        try:
            answers = self._forward(orders[0].model, parts)
        except Exception as error:  # noqa: BLE001 - it belongs to the requests, and the thread lives on
            self._settle(orders, error)
            return
        self._measure(sum(len(part.images) for part in parts), len(parts), time.perf_counter() - began)
        for order, answer in zip(orders, answers, strict=True):
            order.answered.append(answer)
        self._settle([order for order in orders if order.waiting == 0], None)

    def _next_batch(self) -> tuple[list[_Order[ModelT]], list[Part]] | None:
        """Wait for orders; take the oldest one's model and as many rows for it as a batch may have."""
        with self._changed:
            while True:
                self._drop_gone()
                if self._orders:
                    break
                if self._closing:
                    return None
                self._changed.wait()
            model = self._orders[0].model
            room = self._max_batch_rows
            orders: list[_Order[ModelT]] = []
            parts: list[Part] = []
            for order in self._orders:
                if order.model is not model:
                    continue
                rows = min(room, order.waiting)
                parts.append(Part(order.images[order.taken : order.taken + rows], order.temperature))
                orders.append(order)
                order.taken += rows
                room -= rows
                if room == 0:
                    break
            self._orders = deque(order for order in self._orders if order.waiting)
            self._count(room - self._max_batch_rows)
            return orders, parts

    def _drop_gone(self) -> None:
        gone = [order for order in self._orders if order.future.done()]
        if gone:
            self._orders = deque(order for order in self._orders if not order.future.done())
            self._count(-sum(order.waiting for order in gone))

    def _count(self, rows: int) -> None:
        self._rows += rows
        QUEUE_ROWS.set(self._rows)

    def _retry_after_s(self) -> float:
        return min(_LONGEST_RETRY_S, max(1.0, self._rows * self._seconds_a_row))

    def _measure(self, rows: int, requests: int, seconds: float) -> None:
        newest = seconds / rows
        self._seconds_a_row += (newest - self._seconds_a_row) * (
            _MEMORY_OF_RATE if self._seconds_a_row else 1.0
        )
        ROWS.inc(rows)
        BATCH_ROWS.observe(rows)
        BATCH_REQUESTS.observe(requests)
        FORWARD_SECONDS.observe(seconds)

    def _settle(self, orders: Sequence[_Order[ModelT]], error: Exception | None) -> None:
        """Hand answers, or the error that all of a batch met, to the event loops that wait for them."""
        for order in orders:
            order.loop.call_soon_threadsafe(_resolve, order, error)


def _resolve(order: _Order[ModelT], error: Exception | None) -> None:
    if order.future.done():  # its client has gone
        return
    if error is not None:
        order.future.set_exception(error)
    else:
        order.future.set_result(
            order.answered[0] if len(order.answered) == 1 else np.concatenate(order.answered)
        )
