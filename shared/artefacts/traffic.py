"""`traffic.json` beside `live.json`: how much of the traffic goes to whom, one change at a time."""

import logging
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from shared.artefacts.files import write_atomic
from shared.contracts.traffic import Traffic, TrafficPolicy
from shared.errors import Corrupt, RevisionMismatch

log = logging.getLogger(__name__)

TRAFFIC = "traffic.json"


class TrafficFile:
    """The policy in its file. Whoever changes it holds the lock of the students."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / TRAFFIC

    def read(self) -> Traffic:
        """Return the policy, or one without any part where none was ever set.

        Raises:
            Corrupt: the file is unreadable.
        """
        try:
            return Traffic.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Traffic()
        except ValidationError as error:
            raise Corrupt(str(self._path)) from error

    def write(self, policy: TrafficPolicy, *, revision: int | None = None) -> Traffic:
        """Replace the policy as a whole; the same one again changes nothing.

        Args:
            policy: what is to hold.
            revision: of the policy that is to be replaced; None for whatever is there.

        Raises:
            RevisionMismatch: another one is there.
        """
        before = self._or_nothing()
        if revision is not None and revision != before.revision:
            raise RevisionMismatch(before.revision, str(revision))
        if policy == before.policy:
            return before
        traffic = Traffic(policy=policy, revision=before.revision + 1, changed_at=datetime.now(UTC))
        write_atomic(self._path, traffic.model_dump_json(indent=2).encode())
        return traffic

    def end(self, *versions: str) -> None:
        """Take out what names one of these versions as a candidate: it is none any more."""
        before = self._or_nothing().policy
        after = before
        for version in versions:
            after = after.without(version)
        if after != before:
            self.write(after)
            log.info("traffic policy has ended for candidates", extra={"students": versions})

    def names(self, version: str) -> bool:
        """Tell whether the policy names this version."""
        return version in self._or_nothing().policy.students

    def _or_nothing(self) -> Traffic:
        try:
            return self.read()
        except Corrupt as error:
            # No gateway can follow it either; a new policy, a promotion or a deletion goes its way.
            log.warning("unreadable traffic policy ignored", extra={"path": error.path})
            return Traffic()
