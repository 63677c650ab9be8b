"""What goes to the teacher service and what comes back, as bytes: safetensors, headers, problem documents."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.adapters.content_digest import HEADER as CONTENT_DIGEST
from shared.adapters.content_digest import is_whole
from shared.contracts.problems import Problem
from shared.contracts.teachers import DIGEST_HEADER, TEMPERATURE_HEADER, TeacherView
from shared.errors import (
    DistillationError,
    InputMismatch,
    InvalidRequest,
    ScopeMissing,
    TeacherAnswerInvalid,
    TeacherBudgetSpent,
    TeacherChanged,
    TeacherNotFound,
    Unauthenticated,
)

SoftTargets = NDArray[np.float32] | NDArray[np.float16]
"""Logits z/T as they came: float16 at T = 1 of a teacher that tempers, else float32."""

_TYPES: Final[dict[str, type[np.float32] | type[np.float16]]] = {"F32": np.float32, "F16": np.float16}
_ROWS_NAMED: Final = 8
_OF_THE_WAY: Final = frozenset({b"content-encoding", b"transfer-encoding", b"content-length"})
"""Headers that say how the body travelled; it has arrived."""
_WORDS_BYTES: Final = 1 << 20
"""Of an answer, at most, beside its numbers: names of classes, or a whole problem document."""
_UNKNOWN: Final = "unknown"
UNFORESEEN: Final = "internal-error"
"""The code of an error in the service that nobody raised on purpose, such as a GPU whose memory is full."""
_NO_KEY: Final = frozenset({Unauthenticated.code, ScopeMissing.code})
_KEY_REMEDY: Final = "TEACHER_KEY_FILE must name a file with a key that has the scope `teach`, or `admin`."


def most_bytes(rows: int, classes: int) -> int:
    """Return how long an answer about so many images may be, whatever it says."""
    return _WORDS_BYTES + rows * classes * 4


async def fetch(
    http: httpx.AsyncClient,
    method: str,
    url: httpx.URL | str,
    *,
    limit_bytes: int,
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> httpx.Response:
    """Return an answer with its body read, which nothing makes longer than expected.

    Args:
        http: sends it.
        method: of the request.
        url: of the request.
        limit_bytes: most bytes of the answer's body.
        headers: of the request.
        options: further ones of `httpx.AsyncClient.stream`.

    Raises:
        httpx.TransportError: no answer came, or not the whole of it, or more than `limit_bytes`.
    """
    # As it is, not packed: a few bytes that unpack to many would pass the limit.
    headers = {"Accept-Encoding": "identity", **(headers or {})}
    async with http.stream(method, url, headers=headers, **options) as response:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit_bytes:
                raise httpx.RemoteProtocolError(f"the answer is longer than {limit_bytes} bytes")
    kept = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_WAY]
    return httpx.Response(response.status_code, headers=kept, content=bytes(body), request=response.request)


def need_whole(response: httpx.Response) -> None:
    """Raise `TeacherAnswerInvalid` where an answer does not have the digest that it names."""
    if not is_whole(response.content, response.headers.get(CONTENT_DIGEST, "")):
        raise TeacherAnswerInvalid(f"the teacher's answer is not the one that its {CONTENT_DIGEST} is of")


def described(response: httpx.Response, name: str) -> TeacherView:
    """Return the teacher that an answer describes.

    Raises:
        TeacherAnswerInvalid: it describes none.
    """
    need_whole(response)
    try:
        return TeacherView.model_validate_json(response.content)
    except ValidationError as error:
        raise TeacherAnswerInvalid(f"the description of teacher {name!r} is none") from error


def body_of(images: NDArray[np.uint8]) -> bytes:
    """Return images as a safetensors file with one tensor; the pixels are copied once."""
    header = {"images": {"dtype": "U8", "shape": images.shape, "data_offsets": [0, images.nbytes]}}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, np.ascontiguousarray(images).data])


def answered(
    response: httpx.Response, view: TeacherView, *, rows: int, temperature: float, half: bool
) -> SoftTargets:
    """Return the logits of an answer after comparing all of it with what was asked for.

    Args:
        response: of the service.
        view: the teacher that was asked.
        rows: images that were asked about.
        temperature: T that was asked for.
        half: whether float16 was asked for.

    Raises:
        TeacherChanged: another teacher answered.
        TeacherAnswerInvalid: it is not what was asked for, or not finite.
    """
    digest = response.headers.get(DIGEST_HEADER, "")
    if digest != view.digest:
        raise TeacherChanged(view.name, view.digest, digest)
    if number(response.headers.get(TEMPERATURE_HEADER, "")) != temperature:
        raise TeacherAnswerInvalid(f"the teacher did not answer at the temperature {temperature}")
    need_whole(response)
    try:
        logits = _logits(response.content)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TeacherAnswerInvalid("the teacher's answer is not a safetensors file with logits") from error
    dtype = np.float16 if half else np.float32
    if logits.dtype != dtype or logits.shape != (rows, len(view.classes)):
        raise TeacherAnswerInvalid(
            f"the teacher should answer {np.dtype(dtype)} logits of shape {(rows, len(view.classes))}, "
            f"got {logits.dtype} {logits.shape}"
        )
    finite = np.isfinite(logits).all(-1)
    if not finite.all():
        wild = _in_words(np.flatnonzero(~finite))
        raise TeacherAnswerInvalid(f"the teacher answered logits that are not finite for {wild} of {rows}")
    return logits.copy()  # a copy of its own: what came is a view that cannot be written


def refusal(response: httpx.Response, name: str) -> DistillationError:
    """Return the error that a refusal of the service stands for."""
    problem = problem_of(response)
    if problem.code == TeacherNotFound.code:
        return TeacherNotFound(name)
    if problem.code == TeacherChanged.code:
        _, _, reason = problem.detail.partition(" changed: ")
        asked, found = (message.headers.get(DIGEST_HEADER, "") for message in (response.request, response))
        return TeacherChanged(name, asked, found, reason=reason, remedy=problem.remedy)
    if problem.code == InputMismatch.code:
        return InputMismatch(problem.detail, remedy=problem.remedy)
    if problem.code == TeacherBudgetSpent.code and len(told := re.findall(r"\d+", problem.detail)) == 3:
        return TeacherBudgetSpent(*map(int, told))
    if problem.code in _NO_KEY:
        return InvalidRequest(
            f"the teacher refused our key ({problem.code}): {problem.detail}", remedy=_KEY_REMEDY
        )
    if problem.code == TeacherAnswerInvalid.code:
        return TeacherAnswerInvalid(problem.detail, remedy=problem.remedy)
    if response.is_client_error:
        return InvalidRequest(
            f"the teacher refused the request ({problem.code}): {problem.detail}", remedy=problem.remedy
        )
    return TeacherAnswerInvalid(
        f"the teacher answered with status {response.status_code} ({problem.code}): {problem.detail} "
        f"(request {problem.request_id or 'unknown'})"
    )


def is_problem(response: httpx.Response) -> bool:
    """Tell whether a refusal is in the words of the service, and not of something on the way to it."""
    return problem_of(response).code != _UNKNOWN


def problem_of(response: httpx.Response) -> Problem:
    """Return the problem document of a refusal, or what stands for it where a proxy used its own words."""
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return Problem(
            title=response.reason_phrase,
            status=response.status_code,
            code=_UNKNOWN,
            detail=response.reason_phrase or "no problem document",
        )


def retry_after_s(response: httpx.Response) -> float:
    """Return the seconds of Retry-After; 0 where it is missing or a date."""
    seconds = number(response.headers.get("Retry-After", ""))
    return seconds if math.isfinite(seconds) and seconds >= 0 else 0.0


def number(text: str) -> float:
    """Return the number that a text stands for; NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _logits(body: bytes) -> NDArray[Any]:
    """Return the tensor `logits` of a safetensors file as a view on its bytes."""
    start = 8 + int.from_bytes(body[:8], "little")
    entry = json.loads(body[8:start])["logits"]
    dtype = _TYPES[entry["dtype"]]
    first, end = entry["data_offsets"]
    if not (type(first) is int and type(end) is int and 0 <= first <= end <= len(body) - start):
        raise ValueError("the tensor lies outside of the file")
    return np.frombuffer(memoryview(body)[start + first : start + end], dtype).reshape(entry["shape"])


def _in_words(rows: NDArray[np.intp]) -> str:
    named = ", ".join(map(str, rows[:_ROWS_NAMED]))
    more = f" and {len(rows) - _ROWS_NAMED} more" if len(rows) > _ROWS_NAMED else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {named}{more}"
