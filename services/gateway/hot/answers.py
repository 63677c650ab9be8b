"""From probabilities to the JSON of a `PredictionAnswer`; plain dictionaries: models cost ten times that."""

import time

import orjson

from services.gateway.hot.answered import Found
from services.gateway.hot.asked import Asked


def body(asked: Asked, found: Found, first: int = 0) -> bytes:
    """Return the answer to one request.

    Args:
        asked: the request.
        found: what the student says of its images, perhaps among others.
        first: where its images begin there.
    """
    names = asked.student.classes
    top = asked.top
    predictions = []
    for place, file in enumerate(asked.files, first):
        ranks = found.order[place][:top]
        predictions.append(
            {
                "predicted": names[ranks[0]],
                "classes": [
                    {"name": names[i], "probability": p}
                    for i, p in zip(ranks, found.ranked[place], strict=False)
                ],
                "file": file,
                "answered_by": "student",
            }
        )
    for image in found.by_teacher:
        predictions[image]["answered_by"] = "teacher"
    return orjson.dumps(
        {
            "student": asked.student.version,
            "temperature": 1.0,
            "predictions": predictions,
            "timing": {
                "decode_ms": _ms(asked.decode_s),
                "model_ms": _ms(found.model_s),
                "total_ms": _ms(time.perf_counter() - asked.began),
            },
        }
    )


def _ms(seconds: float) -> float:
    """Return milliseconds to three decimals. `round` would write the number out and read it again."""
    return int(seconds * 1e6 + 0.5) / 1e3
