"""Traffic: which student answers how much of it, who is asked beside it, and what is kept of it.

The policy lies beside `live.json`, as `traffic.json`; every gateway process follows it.
"""

from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import Contract, Name


class Canary(Contract):
    """A share of the requests is answered by a candidate in place of the live student."""

    version: str
    share: float = Field(gt=0, le=1)
    """Of requests; those that send the same `X-Canary-Key` get the same student."""


class Shadow(Contract):
    """A copy of a share of the requests goes to somebody whose answers no client sees."""

    to: Literal["student", "teacher"]
    version: str | None = None
    """Which student. The teacher is the one that the answering student was distilled from."""
    share: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _names_a_student(self) -> Self:
        if (self.to == "student") != (self.version is not None):
            raise ValueError("a shadow student needs a version, and the teacher has none")
        return self


class Cascade(Contract):
    """Where the student is not confident the teacher answers, and the student where the teacher is late."""

    threshold: float | None = Field(default=None, gt=0, le=1)
    """Of the largest probability; below it the teacher is asked."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """In place of a threshold: the share of images to escalate. Each student's own threshold for it is read
    from the curve on its card, so it stays right when another student is promoted."""
    deadline_ms: int = Field(default=250, ge=1, le=60_000)
    """How long the teacher may take, its queue and the way there included."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.threshold is None) == (self.share is None):
            raise ValueError("give either a threshold or a share to escalate")
        return self


class Keeping(Contract):
    """Consent to keep images that the student was not sure of, to learn from them later."""

    collection: Name
    """What they are kept under."""
    escalated: bool = True
    """Images that went to the teacher."""
    disagreed: bool = True
    """Images on which the student and its shadow or canary named different classes."""
    most_images: int = Field(default=10_000, ge=1, le=1_000_000)


class TrafficPolicy(Contract):
    """What is asked for; a part that is left out is off."""

    canary: Canary | None = None
    shadow: Shadow | None = None
    cascade: Cascade | None = None
    keeping: Keeping | None = None

    @property
    def students(self) -> frozenset[str]:
        """Versions of the candidates that it names."""
        named = (self.canary.version if self.canary else None, self.shadow.version if self.shadow else None)
        return frozenset(version for version in named if version is not None)

    def without(self, version: str) -> Self:
        """Return the policy without the parts for which this version is the candidate."""
        ended = [
            name for name in ("canary", "shadow") if getattr(getattr(self, name), "version", None) == version
        ]
        return self.model_copy(update=dict.fromkeys(ended)) if ended else self


class Traffic(Contract):
    """`traffic.json`: the policy that holds, since when, and its number."""

    policy: TrafficPolicy = TrafficPolicy()
    revision: int = Field(default=0, ge=0)
    """Counts changes; 0 where nothing was ever set."""
    changed_at: datetime | None = None


class TrafficView(Traffic):
    """The policy as it lies in the store, and what of it cannot hold in the process that answers."""

    problems: tuple[str, ...] = ()
    """Why a part is off although it is asked for; the live student then answers in its place."""
