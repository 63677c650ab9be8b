"""Writes soft targets as the client accepts them: JSON, or safetensors for those who ask for many rows."""

import json
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import save

from shared.contracts.teachers import SAFETENSORS_MEDIA_TYPE, TeacherDescription
from shared.errors import NotAcceptable, TemperatureTooLow

JSON: Final = "application/json"
KNOWN: Final = (JSON, SAFETENSORS_MEDIA_TYPE)

Dtype = Literal["float32", "float16"]


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

    def encoded(self, media_type: str) -> bytes:
        """Return the answer in one of the known media types.

        Raises:
            TemperatureTooLow: z/T is not finite in the numbers asked for.
        """
        with np.errstate(over="ignore"):  # an overflow becomes inf, which is refused below
            logits = self.logits.astype(self.dtype)
        if not np.isfinite(logits).all():
            raise TemperatureTooLow(self.temperature, self.dtype)
        tensors = {"logits": logits}
        if self.probabilities:
            tensors["probabilities"] = _softmax(self.logits).astype(self.dtype)
        if media_type == SAFETENSORS_MEDIA_TYPE:
            return save(
                {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
                metadata={
                    "teacher": self.teacher.name,
                    "digest": self.teacher.digest,
                    "temperature": repr(self.temperature),
                    "classes": json.dumps(self.teacher.classes),
                },
            )
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
