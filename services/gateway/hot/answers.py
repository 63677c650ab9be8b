"""From probabilities to the JSON of a `PredictionAnswer`; plain dictionaries: models cost ten times that."""

import time

import orjson

from services.gateway.hot.answered import Found
from services.gateway.hot.asked import Asked

_DIGITS = 6
"""Decimals of a probability: what float32 carries."""


def body(asked: Asked, found: Found) -> bytes:
    """Return the answer to one request, from what the student says of its images."""
    names = asked.student.classes
    top = asked.top
    predictions = [
        {
            "predicted": names[ranks[0]],
            "classes": [
                {"name": names[i], "probability": round(p, _DIGITS)}
                for i, p in zip(ranks[:top], row, strict=False)
            ],
            "file": file,
            "answered_by": "student",
        }
        for file, ranks, row in zip(asked.files, found.order, found.ranked, strict=True)
    ]
    for image in found.by_teacher:
        predictions[image]["answered_by"] = "teacher"
    return orjson.dumps(
        {
            "student": asked.student.version,
            "temperature": 1.0,
            "predictions": predictions,
            "timing": {
                "decode_ms": round(asked.decode_s * 1e3, 3),
                "model_ms": round(found.model_s * 1e3, 3),
                "total_ms": round((time.perf_counter() - asked.began) * 1e3, 3),
            },
        }
    )
