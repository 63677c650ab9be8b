"""Predictions: what the gateway answers for an image, always at T = 1."""

from typing import Literal

from pydantic import Field

from shared.contracts.base import Contract


class ClassProbability(Contract):
    """A class and its probability at T = 1."""

    name: str
    probability: float


class Prediction(Contract):
    """The answer for one image. `file` is the name it was sent under, in multipart requests."""

    predicted: str
    classes: tuple[ClassProbability, ...]
    """The top k, most probable first."""
    file: str | None = None
    answered_by: Literal["student", "teacher"] = "student"
    """Whose probabilities these are: where the student is not sure, a cascade asks the teacher."""


class Timing(Contract):
    """Where the time went inside the gateway, in milliseconds."""

    decode_ms: float
    model_ms: float
    total_ms: float


class PredictionAnswer(Contract):
    """The answer of `POST /v1/predictions`: one prediction an image, in the order sent."""

    student: str
    """Version of the student that answered; the header `X-Student-Version` says the same."""
    temperature: float = Field(default=1.0)
    predictions: tuple[Prediction, ...]
    timing: Timing
