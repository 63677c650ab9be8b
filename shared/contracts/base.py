"""What all contracts have in common: strict, frozen, finite; and the small types that they share."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

from shared.errors import DistillationError, InvalidTemperature


class Contract(BaseModel):
    """A message that crosses a process boundary: no unknown fields, no NaN, no change after it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def refuse(error: DistillationError) -> PydanticCustomError:
    """Return what a validator raises so that the client sees the error's own code, words and remedy."""
    # The text goes in as a value: braces in what the client sent must not be read as a template.
    return PydanticCustomError(error.code, "{message}", {"message": str(error), "remedy": error.remedy})


def _finite_temperature(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse(InvalidTemperature(value))
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond the range of floats
        number = math.inf
    if not (math.isfinite(number) and number > 0):
        raise refuse(InvalidTemperature(number))
    return number


def _sorted_out(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(classes)) != len(classes):
        raise ValueError("class names must differ from each other")
    return classes


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""What users call teachers, students and datasets; safe as a file name."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal."""

Temperature = Annotated[float, BeforeValidator(_finite_temperature)]
"""T, without unit: finite and above 0."""

Classes = Annotated[tuple[str, ...], AfterValidator(_sorted_out)]
"""Class names in the order of the logits."""
