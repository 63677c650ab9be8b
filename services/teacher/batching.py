"""Merges concurrent requests into forward passes: interactive ones before bulk, none of them too long.

Whatever waits when the device gets free is its next batch, as many rows as the measured pace of the model
says. While interactive requests come, batches of bulk are kept so short that one of them hardly delays the
next interactive one; while none come, they have the length that gets most rows a second. One thread owns the
device. Each lane's queue is bounded in rows; a request that finds no room is refused with the time after
which there should be some, and one that nobody waits for any more is not computed.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge, Histogram

from services.teacher.lanes import Batch, Lane, Order, Part
from services.teacher.pace import Pace
from shared.contracts.teachers import Lane as LaneName
from shared.errors import DeadlineExceeded, QueueFull, ShuttingDown

ROWS = Counter("imago_teacher_rows_total", "Images answered")
EXPIRED = Counter("imago_teacher_expired_total", "Requests whose deadline passed before they were answered")
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

_LONGEST_RETRY_S: Final = 60.0
_INTERACTIVE_IN_A_ROW: Final = 8
"""Batches after which one of bulk has its turn, so that bulk moves whatever else comes."""
_BESIDE_FOR_S: Final = 5.0
"""How long after an interactive request batches of bulk stay short."""

_MEMORY_OF_RATE: Final = 0.2
"""Weight of the newest batch in the measured seconds a row."""

_ROWS_WHATEVER_THE_TIME: Final = 4
"""A large net gets a fifth more rows a second at so many than at one, and may take `bulk_s` for one alone."""

ModelT = TypeVar("ModelT")
ModelC = TypeVar("ModelC", contravariant=True)

Answers = list[NDArray[np.float32]]


class Device(Protocol[ModelC]):
    """What does the forward passes. Its methods are called by one thread."""

    def overlaps(self, model: ModelC) -> bool:
        """Return whether a batch may be started while one of this model still computes."""

    def pace(self, model: ModelC) -> Pace:
        """Return how fast a model is; one that is new is warmed up and measured first."""

    def start(self, model: ModelC, parts: Sequence[Part]) -> Callable[[], Answers]:
        """Begin a batch, all of one model; what is returned waits for float32 N x classes for each part."""


@dataclass(frozen=True)
class Limits:
    """How much is taken, and how long a batch may be. Times are in seconds."""

    max_batch_rows: int
    queue_rows: int
    """Most rows that wait in a lane."""
    bulk_s: float = 0.2
    """Longest batch, or the time of four rows one by one; of bulk, while no interactive request comes."""
    beside_s: float = 0.003
    """Longest batch of bulk while interactive requests come, or one row where that takes longer."""
    company_s: float = 0.0
    """How long a request waits, while the device is free, for others to share its forward pass."""


class Batcher(Generic[ModelT]):
    """One model thread and its two bounded queues.

    Args:
        device: does the forward passes.
        limits: on what waits, and on how long a batch may be.
    """

    def __init__(self, device: Device[ModelT], limits: Limits) -> None:
        self._device = device
        self._limits = limits
        self._lanes: dict[LaneName, Lane[ModelT]] = {
            "interactive": Lane(limits.queue_rows),
            "bulk": Lane(limits.queue_rows),
        }
        self._in_a_row = 0
        self._interactive_came = -math.inf
        self._seconds_a_row = 0.0
        self._counted = 0
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

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for the device, in both lanes."""
        return sum(lane.rows for lane in self._lanes.values())

    async def ask(
        self,
        model: ModelT,
        images: NDArray[np.uint8],
        *,
        temperature: float,
        lane: LaneName = "interactive",
        deadline_s: float | None = None,
        since: float | None = None,
    ) -> NDArray[np.float32]:
        """Return what the model answers for these rows; cancel the call, and rows not begun are dropped.

        Args:
            model: that answers.
            images: uint8 N x H x W x C.
            temperature: T.
            lane: which queue it waits in.
            deadline_s: seconds after which nobody waits for the answer.
            since: the `time.monotonic()` from which they count; from now where left out.

        Raises:
            QueueFull: there is no room for so many rows.
            DeadlineExceeded: there was no answer in time; rows that were not begun never are.
            ShuttingDown: `close` was called.
        """
        left_s = None
        if deadline_s is not None:
            left_s = deadline_s - (0 if since is None else time.monotonic() - since)
            if left_s <= 0:
                EXPIRED.inc()
                raise DeadlineExceeded(deadline_s)
        loop = asyncio.get_running_loop()
        order = Order(model, images, temperature, loop, loop.create_future())
        with self._changed:
            if self._closing:
                raise ShuttingDown
            waiting = self._lanes[lane]
            if not waiting.has_room(len(images)):
                retry_after_s = min(_LONGEST_RETRY_S, max(1.0, waiting.rows * self._seconds_a_row))
                raise QueueFull("images", waiting.limit, retry_after_s)
            if lane == "interactive":
                self._interactive_came = order.came
            waiting.add(order)
            self._count()
            self._changed.notify()
        try:
            async with asyncio.timeout(left_s) as scope:
                return await order.future
        except TimeoutError as error:
            if deadline_s is None or not scope.expired():
                raise
            EXPIRED.inc()
            raise DeadlineExceeded(deadline_s) from error

    def end(self) -> None:
        """Take nothing new, answer what waits, then let the thread end; returns at once."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    async def close(self) -> None:
        """Take nothing new, answer what waits, end the thread."""
        self.end()
        await asyncio.to_thread(self._thread.join)

    # --- the model thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        running: deque[Callable[[], None]] = deque()
        while True:
            batch = self._next_batch(wait=not running)
            if batch is None and not running:
                return
            # What overlaps is begun before the answers of the batch before it are waited for.
            ahead = 1 if batch is not None and self._device.overlaps(batch.model) else 0
            if batch is not None and (started := self._start(batch)) is not None:
                running.append(started)
            batch = started = None  # while the thread waits it keeps no model from being forgotten
            while len(running) > ahead:
                running.popleft()()

    def _start(self, batch: Batch[ModelT]) -> Callable[[], None] | None:
        """Begin a batch and return what ends it; None where it could not begin."""
        began = time.perf_counter()
        try:
            answers = self._device.start(batch.model, batch.parts)
        except Exception as error:  # noqa: BLE001 - it belongs to the requests, and the thread lives on
            _settle(batch.orders, error)
            return None

        def end() -> None:
            try:
                found = answers()
            except Exception as error:  # noqa: BLE001 - as above
                _settle(batch.orders, error)
                return
            self._measure(batch, time.perf_counter() - began)
            for order, answer in zip(batch.orders, found, strict=True):
                order.answered.append(answer)
            _settle([order for order in batch.orders if order.waiting == 0], None)

        return end

    def _next_batch(self, *, wait: bool) -> Batch[ModelT] | None:
        """Return the next batch; None where none waits and it is not to be, or never will be, waited for."""
        while True:
            with self._changed:
                if not self._wait_for_orders(wait=wait):
                    return None
                model = self._lanes[self._next_lane()].first.model
            try:
                pace = self._device.pace(model)  # of a new model this takes a while: not under the lock
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked for this model
                self._give_up(model, error)
                continue
            with self._changed:
                self._drop_gone()
                lane = self._next_lane()
                waiting = self._lanes[lane]
                if not waiting or waiting.first.model is not model:
                    continue  # another turn has come meanwhile
                most_rows = self._most_rows(lane, pace)
                if wait and not self._company_has_come(waiting, most_rows):
                    continue
                self._in_a_row = self._in_a_row + 1 if lane == "interactive" else 0
                batch = waiting.take(most_rows)
                self._count()
                return batch

    def _wait_for_orders(self, *, wait: bool) -> bool:
        while True:
            self._drop_gone()
            if any(self._lanes.values()):
                return True
            if self._closing or not wait:
                return False
            self._changed.wait()

    def _next_lane(self) -> LaneName:
        bulk_has_its_turn = self._lanes["bulk"] and self._in_a_row >= _INTERACTIVE_IN_A_ROW
        return "interactive" if self._lanes["interactive"] and not bulk_has_its_turn else "bulk"

    def _company_has_come(self, waiting: Lane[ModelT], most_rows: int) -> bool:
        """Return whether the oldest order need not wait for others; else wait until something changes."""
        left_s = waiting.first.came + self._limits.company_s - time.monotonic()
        if left_s <= 0 or self._closing or waiting.rows_of(waiting.first.model) >= most_rows:
            return True
        self._changed.wait(left_s)
        return False

    def _most_rows(self, lane: LaneName, pace: Pace) -> int:
        """Return the most rows of the next batch."""
        longest_s = max(self._limits.bulk_s, _ROWS_WHATEVER_THE_TIME * pace.seconds_of(1))
        if lane == "bulk" and time.monotonic() - self._interactive_came < _BESIDE_FOR_S:
            longest_s = max(self._limits.beside_s, pace.seconds_of(1))
        return min(self._limits.max_batch_rows, pace.rows_within(longest_s))

    def _drop_gone(self) -> None:
        for lane in self._lanes.values():
            lane.drop_gone()
        self._count()

    def _give_up(self, model: ModelT, error: Exception) -> None:
        """Hand an error to all who wait for a model."""
        with self._changed:
            for lane in self._lanes.values():
                _settle(lane.drop_model(model), error)
            self._count()

    def _count(self) -> None:
        QUEUE_ROWS.inc(self.waiting_rows - self._counted)  # beside what other batchers have counted
        self._counted = self.waiting_rows

    def _measure(self, batch: Batch[ModelT], seconds: float) -> None:
        rows = batch.rows
        newest = seconds / rows
        self._seconds_a_row += (newest - self._seconds_a_row) * (
            _MEMORY_OF_RATE if self._seconds_a_row else 1.0
        )
        ROWS.inc(rows)
        BATCH_ROWS.observe(rows)
        BATCH_REQUESTS.observe(len(batch.parts))
        FORWARD_SECONDS.observe(seconds)


def _settle(orders: Sequence[Order[ModelT]], error: Exception | None) -> None:
    """Hand answers, or the error that all of a batch met, to the event loops that wait for them."""
    for order in orders:
        order.loop.call_soon_threadsafe(_resolve, order, error)


def _resolve(order: Order[ModelT], error: Exception | None) -> None:
    if order.future.done():  # its client has gone
        return
    if error is not None:
        order.future.set_exception(error)
    else:
        order.future.set_result(
            order.answered[0] if len(order.answered) == 1 else np.concatenate(order.answered)
        )
