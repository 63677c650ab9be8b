"""Writes soft targets as the client accepts them: JSON, or safetensors for those who ask for many rows."""

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from shared.contracts.teachers import SAFETENSORS_MEDIA_TYPE, TeacherDescription
from shared.errors import NotAcceptable, TeacherAnswerInvalid, TemperatureTooLow

JSON: Final = "application/json"
KNOWN: Final = (JSON, SAFETENSORS_MEDIA_TYPE)

Dtype = Literal["float32", "float16"]

_TYPES: Final = {"float32": "F32", "float16": "F16"}
"""Numbers as safetensors names them."""
_MANY_NUMBERS: Final = 65_536
"""So few are written in less time than a thread takes to be found."""
_ROWS_NAMED: Final = 8


def chosen(accept: str | None) -> str:
    """Return the media type to answer in, as an Accept header wants it; JSON where it leaves both open.

    Raises:
        NotAcceptable: it names neither.
    """
    if accept is None or not accept.strip():
        return JSON
    best = max(KNOWN, key=lambda known: _quality(accept, known))  # the first of equals: JSON
    if _quality(accept, best) == 0:
        raise NotAcceptable(accept[:200], KNOWN)
    return best


@dataclass(frozen=True)
class Answer:
    """What a request is answered: softened logits z/T of a teacher, float32 N x classes."""

    teacher: TeacherDescription
    temperature: float
    logits: NDArray[np.float32]
    probabilities: bool
    dtype: Dtype

    def takes_long(self, media_type: str) -> bool:
        """Return whether `encoded` would hold others up."""
        return self.logits.size > (
            _MANY_NUMBERS if media_type == SAFETENSORS_MEDIA_TYPE else _MANY_NUMBERS // 64
        )

    def encoded(self, media_type: str) -> bytes:
        """Return the answer in one of the known media types.

        Raises:
            TeacherAnswerInvalid: rows are NaN: the teacher's logits of them are not finite.
            TemperatureTooLow: z/T is not finite in the numbers asked for.
        """
        with np.errstate(over="ignore"):  # an overflow becomes inf, which is refused below
            logits = self.logits.astype(self.dtype, copy=False)
        if not np.isfinite(logits).all():
            if len(rows := np.flatnonzero(np.isnan(logits).any(-1))):
                raise TeacherAnswerInvalid(
                    f"teacher {self.teacher.name!r} answers logits that are not finite for "
                    f"{in_words(rows)} of {len(logits)}"
                )
            raise TemperatureTooLow(self.temperature, self.dtype)
        tensors = {"logits": logits}
        if self.probabilities:
            tensors["probabilities"] = _softmax(self.logits).astype(self.dtype)
        if media_type == SAFETENSORS_MEDIA_TYPE:
            return self._safetensors(tensors)
        return orjson.dumps(
            {
                "teacher": self.teacher.name,
                "digest": self.teacher.digest,
                "temperature": self.temperature,
                "classes": self.teacher.classes,
                # float32 has the shortest text that reads back as the same number; float16 fits into it.
                **{name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()},
                **({} if self.probabilities else {"probabilities": None}),
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )

    def _safetensors(self, tensors: dict[str, NDArray[Any]]) -> bytes:
        """Return the tensors as a safetensors file: its numbers are copied once, into the answer."""
        header: dict[str, Any] = {
            "__metadata__": {
                "teacher": self.teacher.name,
                "digest": self.teacher.digest,
                "temperature": repr(self.temperature),
                "classes": json.dumps(self.teacher.classes),
            }
        }
        stop = 0
        for name, tensor in tensors.items():
            start, stop = stop, stop + tensor.nbytes
            header[name] = {
                "dtype": _TYPES[self.dtype],
                "shape": tensor.shape,
                "data_offsets": [start, stop],
            }
        text = orjson.dumps(header)
        text += b" " * (-len(text) % 8)  # so that the numbers begin where their size divides
        parts = [len(text).to_bytes(8, "little"), text]
        return b"".join([*parts, *(np.ascontiguousarray(tensor).data for tensor in tensors.values())])


def in_words(rows: NDArray[np.intp]) -> str:
    """Return the first row numbers, counted from 0, and how many there are besides."""
    named = ", ".join(map(str, rows[:_ROWS_NAMED]))
    more = f" and {len(rows) - _ROWS_NAMED} more" if len(rows) > _ROWS_NAMED else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {named}{more}"


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def _quality(accept: str, known: str) -> float:
    """Return how much an Accept header wants a media type, 0 to 1; the most exact range decides."""
    quality, exactness = 0.0, -1
    for part in accept.split(","):
        wanted, *parameters = (piece.strip().lower() for piece in part.split(";"))
        for rank, matching in enumerate(("*/*", known.split("/")[0] + "/*", known)):
            if wanted == matching and rank > exactness:
                quality, exactness = _q(parameters), rank
    return quality


def _q(parameters: list[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
