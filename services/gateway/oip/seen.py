"""Which versions a caller may ask, and hear of: those that answer everybody, and their own."""

from services.gateway.state import Gateway
from shared.adapters.web.access import Caller


def may_ask(gateway: Gateway, caller: Caller, version: str) -> bool:
    """Tell whether a caller may ask this version, whether or not there is one.

    The live student and those that the traffic policy names are for everybody; any other one is for its
    owners and for administrators, and does not exist for the rest.
    """
    return (
        caller.confined_to is None
        or version == gateway.live.version
        or version in gateway.traffic.policy.students
        or gateway.catalogue.seen_by(caller).sees_student(version)
    )


def versions_for(gateway: Gateway, caller: Caller) -> dict[str, tuple[str, ...]]:
    """Return the versions of each name that a caller may ask, newest first; blocks."""
    found = gateway.models.versions()
    if caller.confined_to is None:
        return found
    seen = {
        name: tuple(one for one in versions if may_ask(gateway, caller, one))
        for name, versions in found.items()
    }
    return {name: versions for name, versions in seen.items() if versions}
