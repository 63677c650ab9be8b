"""The client that waits for its answers."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Concatenate, Literal, ParamSpec, Self

import httpx

from shared.client import endpoints
from shared.client.call import Call, T
from shared.client.errors import GatewayError
from shared.client.exchange import DEFAULT_URL, Exchange, client_options, refusal
from shared.client.following import PATIENCE_S, SILENCE_S, Following, ends
from shared.client.images import Encoded, Image, Predicted, groups, predicted
from shared.client.methods import like
from shared.client.retries import RETRIES, Budget, Retries
from shared.contracts.jobs import FINAL_STATES, JobEvent, JobView
from shared.contracts.predictions import PredictionAnswer

P = ParamSpec("P")


def _method(endpoint: Callable[P, Call[T]]) -> Callable[Concatenate["Client", P], T]:
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(endpoint(*args, **kwargs))

    return like(endpoint, method)


class Client:
    """The gateway's public API; threads may share one client.

    Every method may raise `GatewayRefused`, `GatewayUnreachable` or `AnswerNotUnderstood`, which are
    `GatewayError`s. What each does is said in `shared.client.endpoints`.

    Args:
        base_url: scheme, host and port.
        transport: another transport than the network, for tests.
        timeout_s: longest silence inside one request, in seconds.
        retries: how often what is safe to repeat is tried again.
        headers: sent with every request, such as what a proxy before the gateway asks for.
        key: an API key, where the gateway asks for one; it is never part of an error or a log.

    Raises:
        KeyUnusable: the key has characters that no key has.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float = 60.0,
        retries: Retries = RETRIES,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._budget = Budget()
        self._http = httpx.Client(transport=transport, **client_options(base_url, headers, key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

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

    predict = _method(endpoints.predict)

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

    def predict_many(
        self,
        images: Iterable[Image],
        *,
        batch: int = 32,
        in_flight: int = 4,
        top: int | None = None,
        cascade: float | Literal["off"] | None = None,
        deadline_s: float | None = None,
        canary_key: str | None = None,
    ) -> Iterator[Predicted]:
        """Yield a prediction an image, in the order of the images; takes more of them only as it goes.

        At most `batch` x `in_flight` images are held at a time.

        Args:
            images: as `predict` takes them; an iterator may be endless.
            batch: images in one request, at most; requests end at 16 MiB, too.
            in_flight: requests at the same time, each in a thread of its own.
            top: how many classes to name an image.
            cascade: as `predict` takes it.
            deadline_s: seconds for one request.
            canary_key: as `predict` takes it.

        Raises:
            GatewayError: of the first request that failed; the images before it have been answered.
        """

        def ask(group: list[Encoded]) -> PredictionAnswer:
            return self._run(
                endpoints.predictions(
                    group, top=top, cascade=cascade, deadline_s=deadline_s, canary_key=canary_key
                )
            )

        waiting: deque[tuple[int, Future[PredictionAnswer]]] = deque()
        pool = ThreadPoolExecutor(in_flight, thread_name_prefix="predict")
        try:
            for group in groups(images, batch):
                if len(waiting) == in_flight:
                    asked, answer = waiting.popleft()
                    yield from predicted(answer.result(), asked, self.base_url)
                waiting.append((len(group), pool.submit(ask, group)))
            for asked, answer in waiting:
                yield from predicted(answer.result(), asked, self.base_url)
        finally:
            pool.shutdown(cancel_futures=True)

    def follow(
        self, job_id: str, *, after: str | None = None, patience_s: float = PATIENCE_S
    ) -> Iterator[JobEvent]:
        """Yield the job's events, from its first (or from behind `after`) to the one that ends it.

        A broken stream is taken up behind the last event seen. Nothing is yielded twice.

        Raises:
            GatewayUnreachable: nothing answered for `patience_s` seconds.
        """
        following = Following(self.base_url, after, patience_s)
        while True:
            try:
                with self._open(endpoints.events(job_id, following.last)) as response:
                    following.opened()
                    for piece in response.iter_bytes():
                        for event in following.take(piece):
                            yield event
                            if ends(event):
                                return
                # A stream that closed without the end: either the job ended before `after`, or it was cut.
                if self.job(job_id).state in FINAL_STATES:
                    return
            except (httpx.RequestError, GatewayError) as error:
                following.broke(error)
            time.sleep(following.pause_s())

    def wait(self, job_id: str, *, patience_s: float = PATIENCE_S) -> JobView:
        """Return the job once it has ended, well or not; raises what `follow` does."""
        for _ in self.follow(job_id, patience_s=patience_s):
            pass
        return self.job(job_id)

    def _run(self, call: Call[T]) -> T:
        exchange = Exchange(call, self.base_url, self._retries, self._budget, self._timeout_s)
        while True:
            try:
                with self._stream(exchange) as response:
                    if call.sink is None or not response.is_success:
                        response.read()
                    else:
                        for piece in response.iter_bytes():
                            call.sink.write(piece)
            except httpx.RequestError as error:
                pause_s = exchange.broke(error)
            else:
                if not exchange.is_refusal(response):
                    return exchange.read(call, response)
                pause_s = exchange.refused(response)
            time.sleep(pause_s)

    @contextmanager
    def _stream(self, exchange: Exchange) -> Iterator[httpx.Response]:
        response = self._http.send(self._http.build_request(**exchange.request()), stream=True)
        try:
            yield response
        finally:
            response.close()

    @contextmanager
    def _open(self, call: Call[None]) -> Iterator[httpx.Response]:
        """Open a stream that stays open; raises `GatewayRefused`."""
        exchange = Exchange(call, self.base_url, self._retries, self._budget, SILENCE_S)
        with self._stream(exchange) as response:
            if not response.is_success:
                response.read()
                raise refusal(response)
            yield response
