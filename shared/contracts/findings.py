"""What a check of a teacher found, as a list that a person reads from top to bottom."""

from typing import Literal

from pydantic import Field

from shared.contracts.base import Contract, Name


class Finding(Contract):
    """One thing that was looked at."""

    check: str
    """What, in a few words: `class names`, `logits are finite`."""
    outcome: Literal["ok", "warning", "failed", "skipped"]
    detail: str
    """What was found, with its figures."""
    advice: str = ""
    """What follows from it, where something does: which T to take, what to change."""


class TeacherCheckOrder(Contract):
    """What is asked for with `POST /v1/teachers/{name}/check`."""

    dataset: Name
    claimed_accuracy: float | None = Field(default=None, ge=0, le=1)
    """What its owner says it gets right; the check compares."""
