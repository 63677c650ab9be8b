"""What a check of a teacher found, as a list that a person reads from top to bottom."""

from typing import Literal

from shared.contracts.base import Contract


class Finding(Contract):
    """One thing that was looked at."""

    check: str
    """What, in a few words: `class names`, `logits are finite`."""
    outcome: Literal["ok", "warning", "failed", "skipped"]
    detail: str
    """What was found, with its figures."""
    advice: str = ""
    """What follows from it, where something does: which T to take, what to change."""


class TeacherCheckReport(Contract):
    """The list, and the figures that later pages quote."""

    kind: Literal["teacher_check"] = "teacher_check"
    teacher: str
    digest: str
    dataset: str | None
    findings: tuple[Finding, ...]
    images: int
    """How many images were asked about."""
    accuracy: float | None = None
    """On the labelled ones among them."""
    suggested_temperature: float | None = None
