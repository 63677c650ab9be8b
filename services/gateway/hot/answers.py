"""From probabilities to the JSON of a `PredictionAnswer`; plain dictionaries: models cost ten times that."""

import time
from collections.abc import Sequence

import numpy as np
import orjson
from jaxtyping import Float32

from services.gateway.hot.asked import Asked

_DIGITS = 6
"""Decimals of a probability: what float32 carries."""


Ranked = tuple[list[list[int]], list[list[float]]]
"""For each row the most probable classes, most probable first, and their probabilities."""


def ranked(probabilities: Float32[np.ndarray, "rows classes"], top: int) -> Ranked:
    """Return for each row the `top` most probable classes, most probable first, and their probabilities."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return order.tolist(), np.take_along_axis(probabilities, order, axis=1).tolist()


def body(
    asked: Asked, order: Sequence[Sequence[int]], found: Sequence[Sequence[float]], model_s: float
) -> bytes:
    """Return the answer to one request.

    Args:
        asked: the request.
        order: for each of its images the most probable classes, as `ranked` gives them.
        found: their probabilities.
        model_s: seconds of the call that the images were part of.
    """
    names = asked.student.classes
    top = asked.top
    return orjson.dumps(
        {
            "student": asked.student.version,
            "temperature": 1.0,
            "predictions": [
                {
                    "predicted": names[ranks[0]],
                    "classes": [
                        {"name": names[i], "probability": round(p, _DIGITS)}
                        for i, p in zip(ranks[:top], row, strict=False)
                    ],
                    "file": file,
                }
                for file, ranks, row in zip(asked.files, order, found, strict=True)
            ],
            "timing": {
                "decode_ms": round(asked.decode_s * 1e3, 3),
                "model_ms": round(model_s * 1e3, 3),
                "total_ms": round((time.perf_counter() - asked.began) * 1e3, 3),
            },
        }
    )
