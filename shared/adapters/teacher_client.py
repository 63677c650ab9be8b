"""Asks the teacher service over HTTP: several requests in flight, patient, and sure of what it accepts.

A sync face on a private event loop: the loop runs in a thread of its own, so that requests go out and answers
come in while whoever asks writes the last answer to disk.
"""

import asyncio
import math
import random
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared import logs
from shared.artefacts.names import is_name
from shared.contracts.problems import Problem
from shared.contracts.teachers import (
    DIGEST_HEADER,
    SAFETENSORS_MEDIA_TYPE,
    TEMPERATURE_HEADER,
    TeacherView,
)
from shared.errors import (
    DistillationError,
    InputMismatch,
    InvalidRequest,
    TeacherAnswerInvalid,
    TeacherChanged,
    TeacherNotFound,
    TeacherUnavailable,
)

_MAYBE_LATER = frozenset({429, 502, 503, 504})
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 10.0
_LOOK_UP_S = 0.2
"""How often `should_stop` is asked while answers are awaited."""


T = TypeVar("T")


class TeacherClient:
    """One teacher service. Use it as a context manager, or call `close`.

    What may pass (no connection, no answer in time, 503 and its kin) is tried again, after growing waits of
    full jitter on top of the service's own Retry-After, until nothing has been answered for `patience_s`.

    Args:
        url: of the service, such as `http://127.0.0.1:8081`.
        in_flight: requests that are open at the same time.
        timeout_s: for one answer.
        patience_s: how long to try while the service answers nothing.
    """

    def __init__(
        self, url: str, *, in_flight: int = 4, timeout_s: float = 60.0, patience_s: float = 120.0
    ) -> None:
        self.rows_asked = 0
        """Images that were answered so far."""
        self._in_flight = in_flight
        self._patience_s = patience_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="teacher-client", daemon=True)
        self._thread.start()
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
            limits=httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight),
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
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
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
            Index and float32 N x classes, finite, each row with zero mean.

        Raises:
            TeacherNotFound: there is no teacher of this name.
            TeacherChanged: the teacher has another digest.
            TeacherUnavailable: the service does not answer, for longer than the patience.
            TeacherAnswerInvalid: an answer is not what was asked for.
            InvalidRequest: the service refuses a batch; the words are its own.
        """
        described = self._start(self._describe(name))
        while not described.done():
            if should_stop():
                described.cancel()
                return
            wait([described], timeout=_LOOK_UP_S)
        view = described.result()
        if view.digest != expected_digest:
            raise TeacherChanged(name, expected_digest, view.digest)
        numbered = enumerate(batches)
        pending: dict[Future[NDArray[np.float32]], int] = {}

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
                index, logits = pending.pop(future), future.result()
                self.rows_asked += len(logits)
                fill()  # before the answer is handed out: the teacher works while it is used
                yield index, logits
        finally:
            for future in pending:
                future.cancel()

    async def _describe(self, name: str) -> TeacherView:
        if not is_name(name):  # and it would make another path of the address
            raise TeacherNotFound(name)
        response = await self._request("GET", f"/v1/teachers/{name}", name)
        try:
            return TeacherView.model_validate_json(response.content)
        except ValidationError as error:
            raise TeacherAnswerInvalid(f"the description of teacher {name!r} is none") from error

    async def _ask(
        self, view: TeacherView, images: NDArray[np.uint8], temperature: float
    ) -> NDArray[np.float32]:
        response = await self._request(
            "POST",
            f"/v1/teachers/{view.name}/soft-targets",
            view.name,
            params={"temperature": repr(float(temperature))},
            content=save({"images": np.ascontiguousarray(images)}),
            headers={
                "Content-Type": SAFETENSORS_MEDIA_TYPE,
                "Accept": SAFETENSORS_MEDIA_TYPE,
                DIGEST_HEADER: view.digest,
            },
        )
        return _checked(response, view, rows=len(images), temperature=float(temperature))

    async def _request(
        self, method: str, path: str, name: str, headers: dict[str, str] | None = None, **content: Any
    ) -> httpx.Response:
        """Return the answer to a request that went well, however often it had to be sent."""
        headers = dict(headers or {})
        if (job_id := logs.job_id.get()) is not None:
            headers["X-Request-ID"] = job_id  # one search of the logs then shows worker and teacher
        began = self._loop.time()
        attempt = 0
        while True:
            retry_after_s = 0.0
            try:
                response = await self._http.request(method, path, headers=headers, **content)
            except (httpx.TransportError, httpx.DecodingError) as error:
                reason = str(error) or type(error).__name__
            else:
                if response.status_code not in _MAYBE_LATER:
                    self._last_answer = self._loop.time()
                    if response.status_code != httpx.codes.OK:
                        raise _refusal(response, name)
                    return response
                reason = f"status {response.status_code}: {_problem(response).detail}"
                retry_after_s = _retry_after_s(response)
            # Full jitter: many clients that failed together do not come back together.
            longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt)
            wait_s = retry_after_s + random.uniform(0, longest)
            if self._loop.time() + wait_s - max(began, self._last_answer) > self._patience_s:
                raise TeacherUnavailable(reason)
            attempt += 1
            await asyncio.sleep(wait_s)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._http.aclose()

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


def _checked(
    response: httpx.Response, view: TeacherView, *, rows: int, temperature: float
) -> NDArray[np.float32]:
    """Return the logits of an answer after comparing all of it with what was asked for."""
    digest = response.headers.get(DIGEST_HEADER, "")
    if digest != view.digest:
        raise TeacherChanged(view.name, view.digest, digest)
    if _number(response.headers.get(TEMPERATURE_HEADER, "")) != temperature:
        raise TeacherAnswerInvalid(f"the teacher did not answer at the temperature {temperature}")
    try:
        logits = load(response.content).get("logits")
    except (SafetensorError, ValueError, KeyError) as error:
        raise TeacherAnswerInvalid("the teacher's answer is not a safetensors file") from error
    if logits is None or logits.dtype != np.float32 or logits.shape != (rows, len(view.classes)):
        found = "none" if logits is None else f"{logits.dtype} {logits.shape}"
        raise TeacherAnswerInvalid(
            f"the teacher should answer float32 logits of shape {(rows, len(view.classes))}, got {found}"
        )
    if not np.isfinite(logits).all():
        raise TeacherAnswerInvalid("the teacher answered logits that are not finite")
    return np.array(logits)  # a copy of its own: what was loaded is a view that cannot be written


def _refusal(response: httpx.Response, name: str) -> DistillationError:
    """Return the error that a refusal of the service stands for."""
    problem = _problem(response)
    if problem.code == TeacherNotFound.code:
        return TeacherNotFound(name)
    if problem.code == TeacherChanged.code:
        return TeacherChanged(
            name, response.request.headers.get(DIGEST_HEADER, ""), response.headers.get(DIGEST_HEADER, "")
        )
    if problem.code == InputMismatch.code:
        return InputMismatch(problem.detail, remedy=problem.remedy)
    if response.is_client_error:
        return InvalidRequest(
            f"the teacher refused the request ({problem.code}): {problem.detail}", remedy=problem.remedy
        )
    return TeacherAnswerInvalid(
        f"the teacher answered with status {response.status_code} ({problem.code}): {problem.detail} "
        f"(request {problem.request_id or 'unknown'})"
    )


def _problem(response: httpx.Response) -> Problem:
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:  # a proxy's words, or none
        return Problem(
            title=response.reason_phrase,
            status=response.status_code,
            code="unknown",
            detail=response.reason_phrase or "no problem document",
        )


def _retry_after_s(response: httpx.Response) -> float:
    """Return the seconds of Retry-After; 0 where it is missing or a date."""
    seconds = _number(response.headers.get("Retry-After", ""))
    return seconds if math.isfinite(seconds) and seconds >= 0 else 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
