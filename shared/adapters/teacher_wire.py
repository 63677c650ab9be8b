"""What goes to the teacher service and what comes back, as bytes: safetensors, headers, problem documents."""

import json
import math
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.contracts.problems import Problem
from shared.contracts.teachers import DIGEST_HEADER, TEMPERATURE_HEADER, TeacherView
from shared.errors import (
    DistillationError,
    InputMismatch,
    InvalidRequest,
    TeacherAnswerInvalid,
    TeacherChanged,
    TeacherNotFound,
)

SoftTargets = NDArray[np.float32] | NDArray[np.float16]
"""Logits z/T as they came: float16 at T = 1 of a teacher that tempers, else float32."""

_TYPES: Final[dict[str, type[np.float32] | type[np.float16]]] = {"F32": np.float32, "F16": np.float16}
_ROWS_NAMED: Final = 8


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


def problem_of(response: httpx.Response) -> Problem:
    """Return the problem document of a refusal, or what stands for it where a proxy used its own words."""
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return Problem(
            title=response.reason_phrase,
            status=response.status_code,
            code="unknown",
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
