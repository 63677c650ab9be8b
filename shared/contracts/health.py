"""Health: what the gateway says of its own process."""

from pydantic import Field

from shared.contracts.base import Contract


class Liveness(Contract):
    """The event loop turns."""

    status: str = "live"


class Readiness(Contract):
    """Whether requests should be sent here, and why not."""

    ready: bool
    student: str | None = Field(description="The version that answers; null where none was promoted")
    draining: bool
    problem: str | None = Field(description="Why the promoted student is not the one that answers")
