"""Who asks: what a service knows of the caller once the key was looked at."""

from dataclasses import dataclass, field
from typing import Final

from starlette.types import Scope as AsgiScope

from shared.contracts.keys import KeyLimits, Scope
from shared.errors import ScopeMissing

CALLER: Final = "imago.caller"
"""Where the guard leaves the caller in the scope of ASGI."""


@dataclass(frozen=True)
class Caller:
    """Somebody with a key; or anybody, where keys are switched off."""

    owner: str | None
    """For whom the key acts; what is made belongs to them. None where keys are switched off."""
    key_id: str | None
    scopes: frozenset[Scope]
    limits: KeyLimits = field(default=KeyLimits())

    @property
    def is_admin(self) -> bool:
        """Whether everybody's objects are theirs to see and change."""
        return Scope.ADMIN in self.scopes

    @property
    def confined_to(self) -> str | None:
        """The owner whose objects are all that the caller sees; None where that is everything."""
        return None if self.is_admin else self.owner

    def need(self, scope: Scope) -> None:
        """Raise `ScopeMissing` where the key does not allow this."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise ScopeMissing(scope.value, sorted(self.scopes))


ANYBODY: Final = Caller(None, None, frozenset(Scope))
"""Where keys are switched off."""


def caller_of(scope: AsgiScope) -> Caller:
    """Return who asks, as the guard has found out."""
    caller: Caller = scope.get(CALLER, ANYBODY)
    return caller
