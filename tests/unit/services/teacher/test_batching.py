"""The batcher: who shares a forward pass, who is refused, who is dropped."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from services.teacher.batching import Batcher, Part
from shared.errors import QueueFull, ShuttingDown

ROW = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)


def rows(count: int, first: int = 0) -> np.ndarray:
    """Return images whose every pixel is the row's number, so that answers can be told apart."""
    numbers = np.arange(first, first + count, dtype=np.uint8)
    return np.broadcast_to(numbers.reshape(-1, 1, 1, 1), (count, 2, 3, 1))


class Device:
    """Answers pixel / T and keeps what it was asked; waits before each batch until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[tuple[object, list[Part]]] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0 if held else 1_000_000)
        self.error: Exception | None = None

    def __call__(self, model: object, parts: Sequence[Part]) -> list[np.ndarray]:
        self.batches.append((model, list(parts)))
        self.entered.release()
        assert self.go.acquire(timeout=10)
        if self.error is not None:
            raise self.error
        return [part.images[:, 0, 0, :].astype(np.float32) / part.temperature for part in parts]

    def sizes(self) -> list[int]:
        return [sum(len(part.images) for part in parts) for _, parts in self.batches]

    async def busy(self) -> None:
        """Return once the device has begun another batch."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


def run(scenario, device: Device, *, max_batch_rows: int = 8, queue_rows: int = 100) -> None:
    async def main() -> None:
        batcher = Batcher(device, max_batch_rows=max_batch_rows, queue_rows=queue_rows)
        try:
            await asyncio.wait_for(scenario(batcher), 20)
        finally:
            device.go.release(1000)
            await batcher.close()

    asyncio.run(main())


async def started(coroutine) -> asyncio.Task:
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)  # it has put its order into the queue
    return task


def test_requests_that_wait_while_the_device_is_busy_share_its_next_forward_pass():
    device = Device(held=True)

    async def scenario(batcher):
        first = await started(batcher.ask("m", rows(1), temperature=1.0))
        await device.busy()
        others = [await started(batcher.ask("m", rows(2, n), temperature=1.0)) for n in (10, 20, 30)]
        device.go.release(2)
        await asyncio.gather(first, *others)
        for task, number in zip(others, (10, 20, 30), strict=True):
            np.testing.assert_array_equal(task.result()[:, 0], [number, number + 1])

    run(scenario, device)
    assert device.sizes() == [1, 6]


def test_a_lone_request_is_answered_without_waiting_for_company():
    device = Device()

    async def scenario(batcher):
        await batcher.ask("m", rows(1), temperature=1.0)

    run(scenario, device)
    assert device.sizes() == [1]


def test_requests_at_different_temperatures_share_a_forward_pass():
    device = Device(held=True)

    async def scenario(batcher):
        first = await started(batcher.ask("m", rows(1), temperature=1.0))
        await device.busy()
        warm = await started(batcher.ask("m", rows(1, 8), temperature=2.0))
        hot = await started(batcher.ask("m", rows(1, 8), temperature=4.0))
        device.go.release(2)
        await first
        assert (await warm)[0, 0] == 4
        assert (await hot)[0, 0] == 2

    run(scenario, device)
    assert device.sizes() == [1, 2]


def test_different_models_never_share_a_forward_pass_and_both_are_answered():
    device = Device(held=True)

    async def scenario(batcher):
        tasks = [await started(batcher.ask("a", rows(1), temperature=1.0))]
        await device.busy()
        for model in ("a", "b", "a", "b"):
            tasks.append(await started(batcher.ask(model, rows(1), temperature=1.0)))
        device.go.release(3)
        await asyncio.gather(*tasks)

    run(scenario, device)
    assert [(model, len(parts)) for model, parts in device.batches] == [("a", 1), ("a", 2), ("b", 2)]


def test_a_request_larger_than_a_batch_is_split_and_comes_back_whole_and_in_order():
    device = Device()

    async def scenario(batcher):
        answer = await batcher.ask("m", rows(21), temperature=1.0)
        np.testing.assert_array_equal(answer[:, 0], np.arange(21))

    run(scenario, device, max_batch_rows=8)
    assert device.sizes() == [8, 8, 5]


def test_a_full_queue_refuses_and_says_when_to_come_back():
    device = Device(held=True)

    async def scenario(batcher):
        first = await started(batcher.ask("m", rows(1), temperature=1.0))
        await device.busy()
        waiting = await started(batcher.ask("m", rows(10), temperature=1.0))
        with pytest.raises(QueueFull) as refused:
            await batcher.ask("m", rows(1), temperature=1.0)
        assert refused.value.retry_after_s >= 1
        device.go.release(10)
        assert len(await waiting) == 10
        assert len(await first) == 1
        assert len(await batcher.ask("m", rows(10), temperature=1.0)) == 10  # there is room again

    run(scenario, device, queue_rows=10)


def test_the_time_to_come_back_grows_with_the_measured_seconds_a_row():
    device = Device(held=True)

    async def scenario(batcher):
        slow = await started(batcher.ask("m", rows(1), temperature=1.0))
        await device.busy()
        await asyncio.sleep(0.3)  # a row takes 0.3 s
        device.go.release()
        await slow
        running = await started(batcher.ask("m", rows(1), temperature=1.0))
        await device.busy()
        waiting = await started(batcher.ask("m", rows(10), temperature=1.0))
        with pytest.raises(QueueFull) as refused:
            await batcher.ask("m", rows(1), temperature=1.0)
        assert refused.value.retry_after_s == pytest.approx(10 * 0.3, rel=0.5)
        device.go.release(10)
        await asyncio.gather(running, waiting)

    run(scenario, device, queue_rows=10)


def test_a_request_whose_client_has_gone_is_never_computed_and_holds_no_room():
    device = Device(held=True)

    async def scenario(batcher):
        first = await started(batcher.ask("m", rows(1), temperature=1.0))
        await device.busy()
        gone = await started(batcher.ask("m", rows(10, 50), temperature=1.0))
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        there = await started(batcher.ask("m", rows(3, 100), temperature=1.0))
        device.go.release(10)
        await first
        np.testing.assert_array_equal((await there)[:, 0], [100, 101, 102])

    run(scenario, device, queue_rows=10)
    assert device.sizes() == [1, 3]


def test_a_request_that_leaves_half_way_is_not_computed_to_its_end():
    device = Device(held=True)

    async def scenario(batcher):
        gone = await started(batcher.ask("m", rows(80), temperature=1.0))
        await device.busy()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        device.go.release(10)
        await batcher.ask("m", rows(1), temperature=1.0)

    run(scenario, device, max_batch_rows=8)
    assert device.sizes() == [8, 1]


def test_an_error_of_the_device_reaches_all_who_shared_the_batch_and_none_after():
    device = Device(held=True)
    device.error = RuntimeError("out of memory")

    async def scenario(batcher):
        tasks = [await started(batcher.ask("m", rows(1), temperature=1.0)) for _ in range(3)]
        device.go.release(3)
        assert all(
            isinstance(found, RuntimeError) for found in await asyncio.gather(*tasks, return_exceptions=True)
        )
        device.error = None
        device.go.release(3)
        assert len(await batcher.ask("m", rows(2), temperature=1.0)) == 2
        assert batcher.able

    run(scenario, device)


def test_closing_answers_what_waits_and_refuses_what_comes():
    device = Device(held=True)

    async def scenario(batcher):
        tasks = [await started(batcher.ask("m", rows(4), temperature=1.0)) for _ in range(5)]
        await device.busy()
        closing = await started(batcher.close())
        with pytest.raises(ShuttingDown):
            await batcher.ask("m", rows(1), temperature=1.0)
        assert not batcher.able
        device.go.release(10)
        await closing
        assert [len(task.result()) for task in tasks] == [4] * 5

    run(scenario, device)
