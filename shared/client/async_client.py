"""The client for an event loop (asyncio): the same methods, to be awaited."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self

import httpx

from shared.client import endpoints
from shared.client.call import Call, T
from shared.client.errors import GatewayError
from shared.client.exchange import DEFAULT_URL, Exchange, client_options, refusal
from shared.client.following import PATIENCE_S, SILENCE_S, Following, ends
from shared.client.images import Image, Images, Predicted, encoded_async, groups_async, one_or_list, predicted
from shared.client.methods import like
from shared.client.retries import RETRIES, Budget, Retries
from shared.contracts.jobs import FINAL_STATES, JobEvent, JobView
from shared.contracts.predictions import PredictionAnswer

P = ParamSpec("P")


def _method(
    endpoint: Callable[P, Call[T]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(endpoint(*args, **kwargs))

    return like(endpoint, method)


class AsyncClient:
    """The gateway's public API, as `Client` has it, with the same arguments. For one event loop."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout_s: float = 60.0,
        retries: Retries = RETRIES,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._budget = Budget()
        self._http = httpx.AsyncClient(transport=transport, **client_options(base_url, headers, key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    submit = _method(endpoints.submit)
    job = _method(endpoints.job)
    jobs = _method(endpoints.jobs)
    cancel = _method(endpoints.cancel)
    pause = _method(endpoints.pause)
    resume = _method(endpoints.resume)
    checkpoint = _method(endpoints.checkpoint)
    report = _method(endpoints.report)
    report_markdown = _method(endpoints.report_markdown)
    report_file = _method(endpoints.report_file)

    async def predict(
        self,
        images: Images,
        *,
        top: int | None = None,
        cascade: float | Literal["off"] | None = None,
        deadline_s: float | None = None,
        canary_key: str | None = None,
    ) -> PredictionAnswer:
        """Do what `Client.predict` does; files are read and pixels encoded in a thread."""
        # Not as the other methods are made: encoding would hold the event loop.
        given = one_or_list(images)
        taken = (
            [await encoded_async(one) for one in given]
            if isinstance(given, list)
            else await encoded_async(given)
        )
        call = endpoints.predictions(
            taken, top=top, cascade=cascade, deadline_s=deadline_s, canary_key=canary_key
        )
        return await self._run(call)

    students = _method(endpoints.students)
    student = _method(endpoints.student)
    download_student_file = _method(endpoints.download_student_file)
    promote = _method(endpoints.promote)
    rollback = _method(endpoints.rollback)
    delete_student = _method(endpoints.delete_student)
    student_comparison = _method(endpoints.student_comparison)

    traffic = _method(endpoints.traffic)
    set_traffic = _method(endpoints.set_traffic)
    clear_traffic = _method(endpoints.clear_traffic)

    make_key = _method(endpoints.make_key)
    keys = _method(endpoints.keys)
    key = _method(endpoints.key)
    revoke_key = _method(endpoints.revoke_key)

    kept = _method(endpoints.kept)
    kept_collection = _method(endpoints.kept_collection)
    delete_kept = _method(endpoints.delete_kept)

    teachers = _method(endpoints.teachers)
    teacher = _method(endpoints.teacher)
    add_teacher = _method(endpoints.add_teacher)
    check_teacher = _method(endpoints.check_teacher)

    datasets = _method(endpoints.datasets)
    dataset = _method(endpoints.dataset)
    add_dataset = _method(endpoints.add_dataset)

    build_transfer_set = _method(endpoints.build_transfer_set)
    transfer_sets = _method(endpoints.transfer_sets)
    transfer_set = _method(endpoints.transfer_set)
    download_transfer_set = _method(endpoints.download_transfer_set)
    download_transfer_set_file = _method(endpoints.download_transfer_set_file)
    delete_transfer_set = _method(endpoints.delete_transfer_set)

    live = _method(endpoints.live)
    ready = _method(endpoints.ready)

    async def predict_many(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        *,
        batch: int = 32,
        in_flight: int = 4,
        top: int | None = None,
        cascade: float | Literal["off"] | None = None,
        deadline_s: float | None = None,
        canary_key: str | None = None,
    ) -> AsyncIterator[Predicted]:
        """Yield what `Client.predict_many` does; the images may come from an async iterator as well."""
        waiting: deque[tuple[int, asyncio.Task[PredictionAnswer]]] = deque()
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, got {in_flight}")
        try:
            async for group in groups_async(images, batch):
                if len(waiting) == in_flight:
                    asked, answer = waiting[0]
                    for one in predicted(await answer, asked, self.base_url):
                        yield one
                    waiting.popleft()
                call = endpoints.predictions(
                    group, top=top, cascade=cascade, deadline_s=deadline_s, canary_key=canary_key
                )
                waiting.append((len(group), asyncio.create_task(self._run(call))))
            for asked, answer in waiting:
                for one in predicted(await answer, asked, self.base_url):
                    yield one
        finally:
            tasks = [answer for _, answer in waiting]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def follow(
        self, job_id: str, *, after: str | None = None, patience_s: float = PATIENCE_S
    ) -> AsyncIterator[JobEvent]:
        """Yield what `Client.follow` does."""
        following = Following(self.base_url, after, patience_s)
        while True:
            try:
                async with self._open(endpoints.events(job_id, following.last)) as response:
                    following.opened()
                    async for piece in response.aiter_bytes():
                        for event in following.take(piece):
                            yield event
                            if ends(event):
                                return
                # As in `Client.follow`: ended before `after`, or cut.
                if (await self.job(job_id)).state in FINAL_STATES:
                    return
            except (httpx.RequestError, GatewayError) as error:
                following.broke(error)
            await asyncio.sleep(following.pause_s())

    async def wait(self, job_id: str, *, patience_s: float = PATIENCE_S) -> JobView:
        """Return the job once it has ended, well or not; raises what `follow` does."""
        async for _ in self.follow(job_id, patience_s=patience_s):
            pass
        return await self.job(job_id)

    async def _run(self, call: Call[T]) -> T:
        exchange = Exchange(call, self.base_url, self._retries, self._budget, self._timeout_s)
        while True:
            try:
                async with self._stream(exchange) as response:
                    if call.sink is None or not response.is_success:
                        await response.aread()
                    else:
                        async for piece in response.aiter_bytes():
                            await asyncio.to_thread(call.sink.write, piece)
            except httpx.RequestError as error:
                pause_s = exchange.broke(error)
            else:
                if not exchange.is_refusal(response):
                    return exchange.read(call, response)
                pause_s = exchange.refused(response)
            await asyncio.sleep(pause_s)

    @asynccontextmanager
    async def _stream(self, exchange: Exchange) -> AsyncIterator[httpx.Response]:
        request = self._http.build_request(**exchange.request(is_async=True))
        response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    @asynccontextmanager
    async def _open(self, call: Call[None]) -> AsyncIterator[httpx.Response]:
        """Open a stream that stays open; raises `GatewayRefused`."""
        exchange = Exchange(call, self.base_url, self._retries, self._budget, SILENCE_S)
        async with self._stream(exchange) as response:
            if not response.is_success:
                await response.aread()
                raise refusal(response)
            yield response
