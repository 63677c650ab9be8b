"""API keys: who may ask for what, how much of it, and for how long."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field, field_validator

from shared.contracts.base import Contract, Digest, Name


class Scope(StrEnum):
    """What a key allows. A key has one or several; `admin` is all of them, on everybody's objects."""

    PREDICT = "predict"
    """Ask the student that is live."""
    TEACH = "teach"
    """See what a teacher says, in logits or probabilities: enough of it copies the model."""
    UPLOAD = "upload"
    """Bring datasets and teachers."""
    JOBS = "jobs"
    """Submit jobs, watch and end one's own, read what they made."""
    ADMIN = "admin"
    """Decide what is live, and who has keys."""


class KeyLimits(Contract):
    """How much one key may ask for; what is left out is not bounded."""

    per_second: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Requests a second on average; of a request for predictions each image counts."""
    burst: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Requests at once after a pause; left out, what comes together in one second, and 1 at least. A new key
    has it with `per_second` only."""
    per_day: Annotated[int, Field(ge=1)] | None = None
    """The same count, of one day in UTC."""
    teacher_rows: Annotated[int, Field(ge=0)] | None = None
    """Images that a teacher answers, in the key's whole life."""


KeyId = Annotated[str, Field(pattern=r"^[a-z0-9]{12}$")]
"""Stands at the beginning of a key, and is no secret."""


class KeyRequest(Contract):
    """A key that is to be made. Whoever has it acts for `owner`; several keys may."""

    name: Name
    owner: Name
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=len(Scope))]
    expires_in_days: Annotated[float, Field(gt=0, le=36_500)] | None = None
    limits: KeyLimits = KeyLimits()

    @field_validator("limits")
    @classmethod
    def _bounds_something(cls, limits: KeyLimits) -> KeyLimits:
        # Not of `KeyLimits`, which keys that were made before have as well.
        if limits.burst is not None and limits.per_second is None:
            raise ValueError("burst bounds nothing without per_second; give both, or per_second alone")
        return limits


class KeyView(Contract):
    """A key without its secret, as the API answers it."""

    id: KeyId
    name: Name
    owner: Name
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    limits: KeyLimits = KeyLimits()


class StoredKey(KeyView):
    """A key as it is kept: the digest finds out whether somebody has it, and does not give it away."""

    digest: Digest
    """SHA-256 of the whole key, which is random enough for it: 256 bits."""


class KeyMade(KeyView):
    """The answer to the request for a key; nothing shows `key` a second time."""

    key: Annotated[str, Field(repr=False)]


class KeyList(Contract):
    """All keys, the oldest first."""

    keys: tuple[KeyView, ...]


class KeyFile(Contract):
    """What `keys.json` holds."""

    keys: tuple[StoredKey, ...] = ()
