"""A lane of the batcher: the requests that wait in it, oldest first, bounded in rows."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

ModelT = TypeVar("ModelT")


@dataclass(frozen=True)
class Part:
    """Rows of one request, or some of them, in a batch: uint8 N x H x W x C, and T."""

    images: NDArray[np.uint8]
    temperature: float


@dataclass(eq=False)
class Order(Generic[ModelT]):
    """A request that waits: how many of its rows are taken, and what has been answered."""

    model: ModelT
    images: NDArray[np.uint8]
    temperature: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[NDArray[np.float32]]
    came: float = field(default_factory=time.monotonic)
    taken: int = 0
    answered: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Rows that no batch has taken."""
        return len(self.images) - self.taken


@dataclass(frozen=True)
class Batch(Generic[ModelT]):
    """Rows that share a forward pass: a part for each order."""

    model: ModelT
    orders: list[Order[ModelT]]
    parts: list[Part]

    @property
    def rows(self) -> int:
        """Of all parts."""
        return sum(len(part.images) for part in self.parts)


class Lane(Generic[ModelT]):
    """Orders, oldest first. Not safe for threads by itself: the batcher holds its lock.

    Args:
        limit: most rows that wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.rows = 0
        """That wait."""
        self._orders: deque[Order[ModelT]] = deque()

    def __bool__(self) -> bool:
        return bool(self._orders)

    @property
    def first(self) -> Order[ModelT]:
        """The oldest order."""
        return self._orders[0]

    def rows_of(self, model: ModelT) -> int:
        """Return the rows that wait for a model."""
        return sum(order.waiting for order in self._orders if order.model is model)

    def has_room(self, rows: int) -> bool:
        """Return whether so many rows more may wait; the gone hold no room against those who are there."""
        if self.rows + rows > self.limit:
            self.drop_gone()
        return self.rows + rows <= self.limit

    def add(self, order: Order[ModelT]) -> None:
        """Put an order at the end."""
        self._orders.append(order)
        self.rows += order.waiting

    def take(self, most_rows: int) -> Batch[ModelT]:
        """Return the oldest order's model, and as many rows for it as a batch may have, oldest first."""
        batch: Batch[ModelT] = Batch(self.first.model, [], [])
        room = most_rows
        for order in self._orders:
            if order.model is not batch.model:
                continue
            rows = min(room, order.waiting)
            batch.parts.append(Part(order.images[order.taken : order.taken + rows], order.temperature))
            batch.orders.append(order)
            order.taken += rows
            room -= rows
            if room == 0:
                break
        self._keep([order for order in self._orders if order.waiting])
        return batch

    def drop_gone(self) -> None:
        """Forget orders that nobody waits for any more."""
        if any(order.future.done() for order in self._orders):
            self._keep([order for order in self._orders if not order.future.done()])

    def drop_model(self, model: ModelT) -> list[Order[ModelT]]:
        """Forget all orders for a model, and return them."""
        dropped = [order for order in self._orders if order.model is model]
        self._keep([order for order in self._orders if order.model is not model])
        return dropped

    def _keep(self, orders: Sequence[Order[ModelT]]) -> None:
        self._orders = deque(orders)
        self.rows = sum(order.waiting for order in orders)
