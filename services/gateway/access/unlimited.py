"""What a gateway asks before it answers: whether a key may ask for so much. Here without any bound."""

from typing import Protocol

from shared.adapters.web.access import Caller


class Limits(Protocol):
    """Bounds how much a key asks for. Called on the event loop, for every request: it never waits."""

    def take(self, caller: Caller, cost: int) -> None:
        """Take what a request costs before it is read.

        Raises:
            RateExceeded: the key asks faster than it may.
            QuotaExceeded: the key has asked as often as it may on one day.
        """
        ...

    def charge(self, caller: Caller, cost: int) -> None:
        """Take what a request turned out to cost, into debt where it must be: the next ones wait for that.

        Raises:
            QuotaExceeded: with this the key would have asked oftener than it may on one day.
        """
        ...

    async def close(self) -> None:
        """Stop counting."""
        ...


class NoLimits:
    """Lets everybody ask for everything; for where keys are off."""

    def take(self, caller: Caller, cost: int) -> None:
        """Do nothing."""

    def charge(self, caller: Caller, cost: int) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""
