"""The batcher: who shares a forward pass, who is refused, who is dropped."""

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from services.teacher.batching import Batcher, Limits
from services.teacher.lanes import Part
from services.teacher.pace import Pace
from shared.errors import DeadlineExceeded, QueueFull, ShuttingDown

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
        self.new_error: Exception | None = None
        self.ahead = False
        self.paces: dict[object, Pace] = {}
        self.log: list[str] = []

    def overlaps(self, _model: object) -> bool:
        return self.ahead

    def pace(self, model: object) -> Pace:
        """Return the pace of a model; a row takes no time unless the test says otherwise."""
        if self.new_error is not None:
            raise self.new_error
        return self.paces.setdefault(
            model, Pace({2**power: 2**power * 1e-7 / (power + 1) for power in range(12)})
        )

    def start(self, model: object, parts: Sequence[Part]) -> Callable[[], list[np.ndarray]]:
        number = len(self.batches)
        self.batches.append((model, list(parts)))
        self.log.append(f"start {number}")
        self.entered.release()
        assert self.go.acquire(timeout=10)
        if self.error is not None:
            raise self.error

        def wait() -> list[np.ndarray]:
            self.log.append(f"end {number}")
            return [part.images[:, 0, 0, :].astype(np.float32) / part.temperature for part in parts]

        return wait

    def sizes(self) -> list[int]:
        return [sum(len(part.images) for part in parts) for _, parts in self.batches]

    async def busy(self) -> None:
        """Return once the device has begun another batch."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


def run(scenario, device: Device, *, max_batch_rows: int = 8, queue_rows: int = 100, **limits: float) -> None:
    async def main() -> None:
        batcher = Batcher(device, Limits(max_batch_rows=max_batch_rows, queue_rows=queue_rows, **limits))
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


# --- lanes -------------------------------------------------------------------------------------------------
BETTER_TOGETHER = Pace({2**power: 0.001 * (1 + 2**power) for power in range(8)})
"""A millisecond a call and one a row."""


def test_interactive_requests_overtake_bulk_that_waits():
    device = Device(held=True)

    async def scenario(batcher):
        tasks = [await started(batcher.ask("m", rows(8), temperature=1.0, lane="bulk"))]
        await device.busy()
        tasks.append(await started(batcher.ask("m", rows(16, 50), temperature=1.0, lane="bulk")))
        tasks.append(await started(batcher.ask("m", rows(1, 99), temperature=1.0, lane="interactive")))
        device.go.release(10)
        await asyncio.gather(*tasks)

    run(scenario, device)
    assert [int(parts[0].images[0, 0, 0, 0]) for _, parts in device.batches] == [0, 99, 50, 58]


def test_batches_of_bulk_are_long_alone_and_short_beside_interactive_requests():
    device = Device(held=True)
    device.paces["m"] = BETTER_TOGETHER

    async def scenario(batcher):
        alone = await started(batcher.ask("m", rows(32), temperature=1.0, lane="bulk"))
        await device.busy()
        bulk = await started(batcher.ask("m", rows(20), temperature=1.0, lane="bulk"))
        interactive = await started(batcher.ask("m", rows(1), temperature=1.0))
        device.go.release(20)
        await asyncio.gather(alone, bulk, interactive)

    run(scenario, device, max_batch_rows=32, bulk_s=0.1, beside_s=0.0055)
    assert device.sizes() == [32, 1, 4, 4, 4, 4, 4]


def test_a_batch_beside_interactive_requests_has_one_row_at_least():
    device = Device(held=True)
    device.paces["m"] = BETTER_TOGETHER

    async def scenario(batcher):
        interactive = await started(batcher.ask("m", rows(1), temperature=1.0))
        bulk = await started(batcher.ask("m", rows(3), temperature=1.0, lane="bulk"))
        device.go.release(20)
        await asyncio.gather(interactive, bulk)

    run(scenario, device, beside_s=0.0001)
    assert device.sizes() == [1, 1, 1, 1]


def test_a_net_that_takes_longer_than_a_batch_may_is_still_run_on_several_rows():
    device = Device()
    device.paces["m"] = Pace({1: 1.0, 2: 1.9, 4: 3.3, 8: 6.4})

    async def scenario(batcher):
        await batcher.ask("m", rows(8), temperature=1.0, lane="bulk")

    run(scenario, device, bulk_s=0.2)
    assert device.sizes() == [4, 4]


def test_a_flood_of_interactive_requests_leaves_bulk_every_ninth_batch():
    device = Device(held=True)

    async def scenario(batcher):
        tasks = [await started(batcher.ask("m", rows(8), temperature=1.0)) for _ in range(20)]
        tasks.append(await started(batcher.ask("m", rows(8, 100), temperature=1.0, lane="bulk")))
        device.go.release(50)
        await asyncio.gather(*tasks)

    run(scenario, device, queue_rows=1000)
    turns = [int(parts[0].images[0, 0, 0, 0]) for _, parts in device.batches]
    assert turns.index(100) == 8


def test_a_lane_that_is_full_takes_no_room_from_the_other():
    device = Device(held=True)

    async def scenario(batcher):
        first = await started(batcher.ask("m", rows(1), temperature=1.0, lane="bulk"))
        await device.busy()
        bulk = await started(batcher.ask("m", rows(10), temperature=1.0, lane="bulk"))
        with pytest.raises(QueueFull):
            await batcher.ask("m", rows(1), temperature=1.0, lane="bulk")
        interactive = await started(batcher.ask("m", rows(10), temperature=1.0, lane="interactive"))
        assert batcher.waiting_rows == 20
        device.go.release(20)
        await asyncio.gather(first, bulk, interactive)

    run(scenario, device, queue_rows=10)


def test_a_request_waits_for_company_no_longer_than_it_is_told_to():
    device = Device()

    async def scenario(batcher):
        first = await started(batcher.ask("m", rows(1), temperature=1.0))
        await asyncio.sleep(0.02)
        second = await started(batcher.ask("m", rows(1, 9), temperature=1.0))
        began = asyncio.get_running_loop().time()
        await asyncio.gather(first, second)
        assert asyncio.get_running_loop().time() - began < 5
        await batcher.ask("m", rows(8), temperature=1.0)  # a whole batch needs none

    run(scenario, device, company_s=0.2)
    assert device.sizes() == [2, 8]


# --- deadlines ---------------------------------------------------------------------------------------------


def test_requests_whose_deadline_has_passed_are_refused_and_never_computed():
    device = Device(held=True)

    async def scenario(batcher):
        first = await started(batcher.ask("m", rows(1), temperature=1.0))
        await device.busy()
        late = [
            await started(batcher.ask("m", rows(1), temperature=1.0, lane=lane, deadline_s=0.03))
            for lane in ("interactive", "bulk")
            for _ in range(50)
        ]
        for answer in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(answer, DeadlineExceeded)
            assert "30 ms" in str(answer)
        with pytest.raises(DeadlineExceeded):
            await batcher.ask("m", rows(1), temperature=1.0, deadline_s=0.0)
        with pytest.raises(DeadlineExceeded, match="1000 ms"):
            await batcher.ask("m", rows(1), temperature=1.0, deadline_s=1.0, since=time.monotonic() - 2)
        device.go.release(10)
        await first
        assert len(await batcher.ask("m", rows(2), temperature=1.0, deadline_s=5.0)) == 2

    run(scenario, device)
    assert device.sizes() == [1, 2]


def test_a_timeout_of_the_device_is_not_taken_for_the_clients_deadline():
    device = Device()
    device.error = TimeoutError("of the device")

    async def scenario(batcher):
        with pytest.raises(TimeoutError, match="of the device"):
            await batcher.ask("m", rows(1), temperature=1.0, deadline_s=5.0)

    run(scenario, device)


# --- devices -----------------------------------------------------------------------------------------------


def test_a_batch_that_overlaps_is_begun_before_the_one_before_it_is_waited_for():
    device = Device(held=True)
    device.ahead = True

    async def scenario(batcher):
        first = await started(batcher.ask("m", rows(1), temperature=1.0))
        await device.busy()
        second = await started(batcher.ask("m", rows(8), temperature=1.0))
        device.go.release(10)
        await asyncio.gather(first, second)

    run(scenario, device)
    assert device.log == ["start 0", "start 1", "end 0", "end 1"]


def test_a_lone_batch_that_could_overlap_is_answered_at_once():
    device = Device()
    device.ahead = True

    async def scenario(batcher):
        assert len(await batcher.ask("m", rows(2), temperature=1.0)) == 2

    run(scenario, device)


def test_a_model_that_cannot_be_warmed_up_fails_its_requests_and_no_others():
    device = Device()
    device.new_error = RuntimeError("no kernel")

    async def scenario(batcher):
        for lane in ("interactive", "bulk"):
            with pytest.raises(RuntimeError, match="no kernel"):
                await batcher.ask("m", rows(1), temperature=1.0, lane=lane)
        device.new_error = None
        assert len(await batcher.ask("m", rows(2), temperature=1.0)) == 2

    run(scenario, device)


def test_a_model_is_forgotten_once_its_last_request_is_answered():
    class Model:
        pass

    device = Device()

    async def scenario(batcher):
        model = Model()
        device.paces = weakref.WeakKeyDictionary()
        await batcher.ask(model, rows(1), temperature=1.0)
        device.batches.clear()
        gone = weakref.ref(model)
        del model
        while gone() is not None:
            await asyncio.sleep(0.01)

    run(scenario, device)
