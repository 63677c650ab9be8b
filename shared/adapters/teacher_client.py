"""Asks the teacher service over HTTP: several requests in flight, patient, and sure of what it accepts.

A sync face on a private event loop: the loop runs in a thread of its own, so that requests go out and answers
come in while whoever asks writes the last answer to disk. Which replica is asked: `teacher_replicas`; how
often something is tried again: `teacher_retries`.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from shared import logs
from shared.adapters.content_digest import HEADER as CONTENT_DIGEST
from shared.adapters.content_digest import content_digest
from shared.adapters.teacher_replicas import Replica, Replicas, Resolve
from shared.adapters.teacher_retries import AnswerTimes, RetryBudget
from shared.adapters.teacher_wire import (
    UNFORESEEN,
    SoftTargets,
    answered,
    body_of,
    described,
    fetch,
    is_problem,
    most_bytes,
    problem_of,
    refusal,
    retry_after_s,
)
from shared.artefacts.names import is_name
from shared.contracts.teachers import (
    ACCOUNT_HEADER,
    DEADLINE_HEADER,
    DIGEST_HEADER,
    LANE_HEADER,
    SAFETENSORS_MEDIA_TYPE,
    TeacherView,
)
from shared.errors import (
    BodyDamaged,
    DeadlineExceeded,
    DistillationError,
    QueueFull,
    TeacherAnswerInvalid,
    TeacherBudgetSpent,
    TeacherChanged,
    TeacherNotFound,
    TeacherUnavailable,
)

_MAYBE_LATER: Final = frozenset({429, 502, 503, 504})
_TOO_MUCH: Final = frozenset({QueueFull.code, DeadlineExceeded.code})
"""Refusals of a replica that is well and has more to do than it can; others mean that it fails."""
_NOT_OF_THE_QUESTION: Final = frozenset({BodyDamaged.code, UNFORESEEN})
"""Refusals that say nothing of what was asked: another time, or elsewhere, it may be answered."""
_HEALTH_S: Final = 2.0
_HEALTH_BYTES: Final = 1 << 16
_CONNECT_S: Final = 2.0
"""A connection nearby is there at once or not at all; one lost packet is sent again after 1 s."""
_WRONG_ANSWERS: Final = 10
"""After so many to one request it is the teacher that answers so, and not what lies between."""
_LOOK_UP_S: Final = 0.2
"""How often `should_stop` is asked while answers are awaited."""

T = TypeVar("T")


class _Later(Exception):
    """No answer; there may be one later, or of another replica."""


class _Wrong(Exception):
    """An answer that is not what was asked for, or a refusal in words that are not the service's."""

    def __init__(self, error: DistillationError) -> None:
        self.error = error


class TeacherClient:
    """The teacher service. Use it as a context manager, or call `close`.

    What may pass (no connection, no answer in time, 503 and its kin) is tried again, on another replica where
    there is one, within a budget of retries and until nothing has been answered for `patience_s`; a wrong
    answer, or an error that nobody foresaw there, a few times. A replica that has too much to do gets fewer
    requests at a time; one that fails, or answers wrongly, gets none for a while.

    Args:
        url: of the service, such as `http://127.0.0.1:8081`; several with commas between them, or a name that
            stands for several addresses, are replicas of one service.
        in_flight: requests that are open at the same time, at most.
        timeout_s: for one answer, all of it; less once it is known how long answers take.
        patience_s: how long to try while the service answers nothing.
        key: of this service, which the teacher asks for.
        account: id of the key on whose budget our questions go, where ours allows us to name one.
        resolve: finds the addresses of a host name; the machine's resolver where left out.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        account: str | None = None,
        in_flight: int = 4,
        timeout_s: float = 60.0,
        patience_s: float = 120.0,
        resolve: Resolve | None = None,
    ) -> None:
        self.rows_asked = 0
        """Images that were answered so far."""
        self._in_flight = in_flight
        self._patience_s = patience_s
        self._times = AnswerTimes(timeout_s)
        self._who = {} if key is None else {"Authorization": f"Bearer {key}"}
        if account is not None:
            self._who[ACCOUNT_HEADER] = account
        self._replicas = Replicas(url, in_flight=in_flight, healthy=self._healthy, resolve=resolve)
        self._loop = asyncio.new_event_loop()
        self._budget = RetryBudget(self._loop.time)
        self._thread = threading.Thread(target=self._loop.run_forever, name="teacher-client", daemon=True)
        self._thread.start()
        self._http = httpx.AsyncClient(
            # Of the whole answer it is taken below: httpx takes that of each piece.
            timeout=httpx.Timeout(None, connect=min(timeout_s, _CONNECT_S)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            follow_redirects=False,
            trust_env=False,  # the teacher stands beside us: no proxy of the environment
        )
        self._last_answer = self._loop.time()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Closing twice does nothing."""
        if self._loop.is_closed():
            return
        self._start(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def describe(self, name: str) -> TeacherView:
        """Return the teacher of this name.

        Raises:
            TeacherNotFound: there is none.
            TeacherUnavailable: the service does not answer.
            TeacherAnswerInvalid: it answers something that is no teacher.
        """
        return self._start(self._describe(name)).result()

    def soft_targets(
        self,
        name: str,
        batches: Iterable[NDArray[np.uint8]],
        *,
        temperature: float,
        expected_digest: str,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, SoftTargets]]:
        """Yield the index of each batch with its softened logits z/T, in the order in which answers come.

        Batches are drawn as requests get free: no more than `in_flight` of them are on their way, or answered
        and not yet taken.

        Args:
            name: of the teacher.
            batches: uint8 N x H x W x C, as the teacher takes them, no larger than its `most_rows`.
            temperature: T, without unit, finite and above 0.
            expected_digest: of the teacher that must answer.
            should_stop: asked several times a second; once it says yes, nothing more is sent or yielded.
                What it raises is raised here.

        Yields:
            Index and N x classes, finite, each row with zero mean: float16 where a teacher that tempers is
            asked at T = 1 (as transfer sets store it), else float32.

        Raises:
            TeacherNotFound: there is no teacher of this name.
            TeacherChanged: the teacher has another digest.
            TeacherUnavailable: the service does not answer, for longer than the patience.
            TeacherAnswerInvalid: an answer is not what was asked for; rows that are not finite are named.
            InvalidRequest: the service refuses a batch; the words are its own.
        """
        describing = self._start(self._describe(name))
        while not describing.done():
            if should_stop():
                describing.cancel()
                return
            wait([describing], timeout=_LOOK_UP_S)
        view = describing.result()
        if view.digest != expected_digest:
            raise TeacherChanged(name, expected_digest, view.digest)
        numbered = enumerate(batches)
        pending: dict[Future[SoftTargets], int] = {}

        def fill() -> None:
            while len(pending) < self._in_flight and (drawn := next(numbered, None)) is not None:
                index, images = drawn
                pending[self._start(self._ask(view, images, temperature))] = index

        try:
            fill()
            while pending and not should_stop():
                done, _ = wait(pending, timeout=_LOOK_UP_S, return_when=FIRST_COMPLETED)
                if not done:
                    continue
                future = done.pop()
                index = pending.pop(future)
                try:
                    logits = future.result()
                except TeacherAnswerInvalid as error:
                    error.batch = index
                    raise
                self.rows_asked += len(logits)
                fill()  # before the answer is handed out: the teacher works while it is used
                yield index, logits
        finally:
            for future in pending:
                future.cancel()

    async def _describe(self, name: str) -> TeacherView:
        if not is_name(name):  # and it would make another path of the address
            raise TeacherNotFound(name)

        def read(response: httpx.Response) -> TeacherView:
            return described(response, name)

        return await self._request("GET", f"/v1/teachers/{name}", name, read, limit_bytes=most_bytes(0, 0))

    async def _ask(self, view: TeacherView, images: NDArray[np.uint8], temperature: float) -> SoftTargets:
        half = view.tempers and temperature == 1.0
        body = body_of(images)

        def read(response: httpx.Response) -> SoftTargets:
            return answered(response, view, rows=len(images), temperature=float(temperature), half=half)

        return await self._request(
            "POST",
            f"/v1/teachers/{view.name}/soft-targets",
            view.name,
            read,
            limit_bytes=most_bytes(len(images), len(view.classes)),
            params={"temperature": repr(float(temperature)), "dtype": "float16" if half else "float32"},
            content=body,
            headers={
                "Content-Type": SAFETENSORS_MEDIA_TYPE,
                "Accept": SAFETENSORS_MEDIA_TYPE,
                CONTENT_DIGEST: content_digest(body),
                DIGEST_HEADER: view.digest,
                LANE_HEADER: "bulk",
            },
        )

    async def _request(
        self,
        method: str,
        path: str,
        name: str,
        read: Callable[[httpx.Response], T],
        *,
        headers: dict[str, str] | None = None,
        **content: Any,
    ) -> T:
        """Return what a request is answered that went well, however often it had to be sent."""
        headers = self._who | (headers or {})
        if (job_id := logs.job_id.get()) is not None:
            headers["X-Request-ID"] = job_id  # one search of the logs then shows worker and teacher
        began = self._loop.time()
        self._budget.called()
        wrong = 0
        while True:
            replica = await self._able_replica(began)
            try:
                return await self._send(replica, method, path, name, read, headers, **content)
            except _Wrong as found:
                wrong += 1
                if wrong == _WRONG_ANSWERS:
                    raise found.error from found
            except _Later:
                pass
            finally:
                self._replicas.give(replica)
            wait_s = self._budget.wait_s()
            await asyncio.sleep(min(wait_s, max(0.0, self._patience_left(began))))

    async def _able_replica(self, began: float) -> Replica:
        """Wait until a replica has room, as long as our patience lasts; give it back after the request."""
        while (left_s := self._patience_left(began)) > 0:
            try:
                async with asyncio.timeout(left_s):
                    return await self._replicas.take()
            except TimeoutError:
                continue  # others may have been answered meanwhile
        raise TeacherUnavailable(self._replicas.reason)

    async def _send(
        self,
        replica: Replica,
        method: str,
        path: str,
        name: str,
        read: Callable[[httpx.Response], T],
        headers: dict[str, str],
        **content: Any,
    ) -> T:
        """Return a replica's answer; the replica's record takes in how it went.

        Raises:
            _Later: there is none.
            _Wrong: it is not what was asked for.
            DistillationError: the service refuses, once and for all.
        """
        wait_s, began = self._times.wait_s, self._loop.time()
        try:
            async with asyncio.timeout(wait_s):
                response = await fetch(
                    self._http,
                    method,
                    replica.at(path),
                    headers=headers | replica.headers | {DEADLINE_HEADER: f"{1000 * wait_s:.0f}"},
                    extensions=replica.extensions,
                    **content,
                )
        except TimeoutError:
            self._times.ran_out()
            raise self._failed(replica, began, f"no answer within {wait_s:.1f} s", _Later()) from None
        except httpx.TransportError as error:
            raise self._failed(replica, began, str(error) or type(error).__name__, _Later()) from None
        problem = problem_of(response)
        if response.status_code in _MAYBE_LATER and problem.code != TeacherBudgetSpent.code:
            reason = f"status {response.status_code}: {problem.detail}"
            if problem.code not in _TOO_MUCH:
                raise self._failed(replica, began, reason, _Later(), retry_after_s(response))
            self._replicas.reason = reason
            replica.overloaded(began, self._loop.time(), retry_after_s(response))
            raise _Later
        if response.status_code != httpx.codes.OK:
            refused = refusal(response, name)
            if problem.code in _NOT_OF_THE_QUESTION or not is_problem(response):
                raise self._failed(replica, began, str(refused), _Wrong(refused))
            raise refused
        try:
            found = read(response)
        except (TeacherAnswerInvalid, TeacherChanged) as error:
            raise self._failed(replica, began, str(error), _Wrong(error)) from error
        replica.succeeded()
        self._last_answer = self._loop.time()
        self._times.took(self._last_answer - began)
        return found

    def _failed(
        self, replica: Replica, began: float, reason: str, error: Exception, retry_after_s: float = 0.0
    ) -> Exception:
        """Leave a replica out for a while, and return the error."""
        self._replicas.reason = reason
        replica.failed(began, self._loop.time(), retry_after_s)
        return error

    async def _healthy(self, replica: Replica) -> bool:
        """Return whether a replica says that requests may be sent to it."""
        try:
            async with asyncio.timeout(_HEALTH_S):
                response = await fetch(
                    self._http,
                    "GET",
                    replica.at("/health/ready"),
                    limit_bytes=_HEALTH_BYTES,
                    headers=replica.headers,
                    extensions=replica.extensions,
                )
        except (httpx.TransportError, TimeoutError) as error:
            self._replicas.reason = str(error) or type(error).__name__
            return False
        return response.status_code == httpx.codes.OK

    def _patience_left(self, began: float) -> float:
        return max(began, self._last_answer) + self._patience_s - self._loop.time()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._http.aclose()

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
