"""Asks the teacher service about a few images while somebody waits: once, within a deadline, or not at all.

The job's client (`shared.adapters.teacher_client`) is patient and tries again; here the student has an answer
already, so a teacher that is late, changed or away is left alone, the longer the more often it was.
"""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from services.gateway.traffic.breaker import Breaker
from shared.contracts.students import StudentCard
from shared.contracts.teachers import (
    DEADLINE_HEADER,
    DIGEST_HEADER,
    LANE_HEADER,
    SAFETENSORS_MEDIA_TYPE,
    Lane,
    TeacherView,
)
from shared.errors import (
    DeadlineExceeded,
    DistillationError,
    QueueFull,
    TeacherAnswerInvalid,
    TeacherChanged,
    TeacherUnavailable,
)

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

_KEEP_ALIVE_S: Final = 4.0
"""Less than the five seconds after which uvicorn closes an idle connection: none is used as it is closed."""


def has_teacher(card: StudentCard) -> bool:
    """Tell whether somebody stands behind a student who may know better than it does.

    Nobody does behind nets that taught themselves, nor behind a generalist with specialists: what is called
    its teacher is the generalist, which has had its say.
    """
    return card.teacher is not None and card.teacher_digest is not None and card.specialists is None


class _Known(NamedTuple):
    """A teacher as it describes itself, and where its logits have each class of the student."""

    view: TeacherView
    order: list[int]


class TeacherAsker:
    """The teacher service, asked for probabilities at T = 1. Lives on one event loop.

    Args:
        urls: addresses of replicas, with commas between them.
        lane: that questions wait in there; interactive ones are answered before bulk.
        most_in_flight: questions at the same time.
        key: of this service, which the teacher asks for.
    """

    def __init__(
        self,
        urls: str,
        *,
        lane: Lane = "interactive",
        most_in_flight: int = 4,
        key: str | None = None,
    ) -> None:
        self.most_in_flight = most_in_flight
        self._urls = [url.strip().rstrip("/") for url in urls.split(",")]
        self._lane = lane
        self._who = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._in_flight = dict.fromkeys(self._urls, 0)
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._known: dict[tuple[str, tuple[str, ...]], _Known] = {}
        self._http: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    def able(self, card: StudentCard) -> bool:
        """Tell whether the teacher of a student that has one would be asked now."""
        known = (self._breakers.get((url, card.teacher_digest or "")) for url in self._urls)
        return any(breaker is None or breaker.able for breaker in known)

    async def ask(
        self,
        card: StudentCard,
        images: UInt8[np.ndarray, "images height width channels"],
        *,
        deadline_s: float,
    ) -> Float32[np.ndarray, "images classes"]:
        """Return what the student's teacher says of images, in the order of the student's classes.

        Args:
            card: of a student that `has_teacher`.
            images: as the student takes them.
            deadline_s: for all of it, in seconds, the way there and back included.

        Raises:
            QueueFull: too many questions are in flight.
            TeacherUnavailable: it does not answer, or did not a moment ago and is left alone.
            DeadlineExceeded: it was too late.
            TeacherChanged: the teacher of this name is another one by now.
            DistillationError: it refuses, or what it answers is not what was asked for.
        """
        assert card.teacher_digest is not None  # or it has no teacher
        if sum(self._in_flight.values()) >= self.most_in_flight:
            raise QueueFull("questions to the teacher", self.most_in_flight, retry_after_s=deadline_s)
        url, breaker = self._replica(card.teacher_digest)
        self._in_flight[url] += 1
        try:
            http = await self._opened()  # before the clock runs: it is not the teacher that takes this time
            ends = time.monotonic() + deadline_s
            async with asyncio.timeout(deadline_s):
                answers = await self._answers(http, url, card, images, ends)
        except TimeoutError:
            _failed(breaker, url, "no answer in time")
            raise DeadlineExceeded(deadline_s) from None
        except _Refused as refused:
            _failed(breaker, url, str(refused.error), refused.retry_after_s)
            raise refused.error from refused.__cause__
        except BaseException:
            breaker.gave_up()  # whoever asked is gone
            raise
        finally:
            self._in_flight[url] -= 1
        breaker.succeeded()
        return answers

    async def open(self) -> None:
        """Load what asking needs, which the first question does otherwise. It connects to nobody."""
        await self._opened()

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.aclose()

    def _replica(self, digest: str) -> tuple[str, Breaker]:
        """Return the replica with the fewest questions of those that may be asked for this teacher."""
        for url in sorted(self._urls, key=self._in_flight.__getitem__):
            breaker = self._breakers.setdefault((url, digest), Breaker())
            if breaker.may_ask():
                return url, breaker
        raise TeacherUnavailable("it failed several times in a row and is left alone for a while")

    async def _opened(self) -> "httpx.AsyncClient":
        if self._http is None:
            async with self._opening:
                if self._http is None:
                    # Loading it takes longer than a thousand predictions.
                    self._http = await asyncio.to_thread(_client)
        return self._http

    async def _answers(
        self,
        http: "httpx.AsyncClient",
        url: str,
        card: StudentCard,
        images: UInt8[np.ndarray, "images height width channels"],
        ends: float,
    ) -> Float32[np.ndarray, "images classes"]:
        view, order = await self._describe(http, url, card)
        parts = [
            await self._logits(http, url, view, images[first : first + view.most_rows], ends)
            for first in range(0, len(images), view.most_rows)
        ]
        return _softmax(np.concatenate(parts)[:, order])

    async def _describe(self, http: "httpx.AsyncClient", url: str, card: StudentCard) -> _Known:
        assert card.teacher is not None
        assert card.teacher_digest is not None
        key = card.teacher_digest, card.classes
        if key not in self._known:
            from shared.adapters.teacher_wire import described, most_bytes

            response = await self._send(
                http, "GET", f"{url}/v1/teachers/{card.teacher}", card.teacher, limit_bytes=most_bytes(0, 0)
            )
            try:
                view = described(response, card.teacher)
            except TeacherAnswerInvalid as error:
                raise _Refused(error) from error
            if view.digest != card.teacher_digest:
                raise _Refused(TeacherChanged(card.teacher, card.teacher_digest, view.digest))
            if sorted(view.classes) != sorted(card.classes):
                raise _Refused(TeacherAnswerInvalid("the teacher has other classes than the student"))
            self._known[key] = _Known(view, [view.classes.index(name) for name in card.classes])
        return self._known[key]

    async def _logits(
        self,
        http: "httpx.AsyncClient",
        url: str,
        view: TeacherView,
        images: UInt8[np.ndarray, "images height width channels"],
        ends: float,
    ) -> Float32[np.ndarray, "images classes"]:
        from shared.adapters.content_digest import HEADER, content_digest
        from shared.adapters.teacher_wire import answered, body_of, most_bytes

        body = body_of(images)
        response = await self._send(
            http,
            "POST",
            f"{url}/v1/teachers/{view.name}/soft-targets?temperature=1.0",
            view.name,
            limit_bytes=most_bytes(len(images), len(view.classes)),
            content=body,
            headers={
                HEADER: content_digest(body),
                "Content-Type": SAFETENSORS_MEDIA_TYPE,
                "Accept": SAFETENSORS_MEDIA_TYPE,
                DIGEST_HEADER: view.digest,
                LANE_HEADER: self._lane,
                DEADLINE_HEADER: f"{max(1.0, 1000 * (ends - time.monotonic())):.0f}",
            },
        )
        try:
            logits = answered(response, view, rows=len(images), temperature=1.0, half=False)
        except DistillationError as error:
            raise _Refused(error) from None
        return logits.astype(np.float32, copy=False)

    async def _send(
        self,
        http: "httpx.AsyncClient",
        method: str,
        url: str,
        name: str,
        *,
        limit_bytes: int,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> "httpx.Response":
        """Return the answer to a request that went well."""
        import httpx

        from shared.adapters.teacher_wire import fetch, refusal, retry_after_s

        try:
            response = await fetch(
                http,
                method,
                url,
                limit_bytes=limit_bytes,
                content=content,
                headers=self._who | (headers or {}),
            )
        except httpx.HTTPError as error:
            raise _Refused(TeacherUnavailable(str(error) or type(error).__name__)) from error
        if response.status_code != httpx.codes.OK:
            raise _Refused(refusal(response, name), retry_after_s(response))
        return response


class _Refused(Exception):
    """An answer that is none, on its way to the breaker."""

    def __init__(self, error: DistillationError, retry_after_s: float = 0.0) -> None:
        self.error = error
        self.retry_after_s = retry_after_s


def _failed(breaker: Breaker, url: str, reason: str, retry_after_s: float = 0.0) -> None:
    before = breaker.closed
    breaker.failed(retry_after_s)
    if before and not breaker.closed:
        log.warning("the teacher is left alone for a while", extra={"teacher": url, "reason": reason})


def _client() -> "httpx.AsyncClient":
    import httpx

    import shared.adapters.teacher_wire  # noqa: F401 - loaded here, off the event loop

    return httpx.AsyncClient(
        timeout=None,  # noqa: S113 - the deadline of each question is its time-out
        limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S),
        follow_redirects=False,
        trust_env=False,  # the teacher stands beside us: no proxy of the environment
    )


def _softmax(logits: Float32[np.ndarray, "images classes"]) -> Float32[np.ndarray, "images classes"]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Float32[np.ndarray, "images classes"] = raised / raised.sum(axis=1, keepdims=True)
    return probabilities
