"""From the policy that is asked for to what can hold: candidates loaded, and the rest told as problems."""

import logging
from dataclasses import dataclass

from services.gateway.students.live import Live
from services.gateway.students.versions import Versions
from services.gateway.traffic.cascade import threshold_of
from services.gateway.traffic.teacher import has_teacher
from shared.contracts.students import StudentCard
from shared.contracts.traffic import TrafficPolicy
from shared.errors import DistillationError, StudentUnusable, TrafficRefused
from shared.serving.session import StudentSession

log = logging.getLogger(__name__)

_OTHER_VERSION = "Name another version; GET /v1/students lists them."


@dataclass(frozen=True)
class Prepared:
    """What holds."""

    policy: TrafficPolicy
    """Without the parts that cannot hold."""
    canary: StudentSession | None = None
    shadow: StudentSession | None = None
    """The student that is asked beside, where it is one."""
    refused: tuple[DistillationError, ...] = ()
    """Why parts are left out."""


def prepare(policy: TrafficPolicy, live: Live, versions: Versions) -> Prepared:
    """Load the candidates that a policy names, and leave out the parts that cannot hold; blocks.

    A candidate must exist, load, answer as its card says, not be the live student, and take the same images
    to the same classes. A teacher must stand behind the live student where one is to be asked.
    """
    refused: list[DistillationError] = []
    found: dict[str, StudentSession] = {}
    off: set[str] = set()
    for part, version in _candidates(policy):
        try:
            found[part] = _candidate(part, version, live.student(), versions)
        except DistillationError as error:
            refused.append(error)
            off.add(part)
    for part in _with_teacher(policy):
        try:
            _need_teacher(part, live.student().card)
            if part == "cascade":
                _need_threshold(policy, live.student().card)
        except DistillationError as error:
            refused.append(error)
            off.add(part)
    return Prepared(
        policy.model_copy(update=dict.fromkeys(off)) if off else policy,
        found.get("canary"),
        found.get("shadow"),
        tuple(refused),
    )


def _candidates(policy: TrafficPolicy) -> list[tuple[str, str]]:
    named = []
    if policy.canary is not None:
        named.append(("canary", policy.canary.version))
    if policy.shadow is not None and policy.shadow.version is not None:
        named.append(("shadow", policy.shadow.version))
    return named


def _with_teacher(policy: TrafficPolicy) -> list[str]:
    parts = []
    if policy.shadow is not None and policy.shadow.to == "teacher":
        parts.append("shadow")
    if policy.cascade is not None:
        parts.append("cascade")
    return parts


def _candidate(part: str, version: str, live: StudentSession, versions: Versions) -> StudentSession:
    if version == live.version:
        raise TrafficRefused(part, f"{version!r} is the live student", _OTHER_VERSION)
    try:
        candidate = versions.load(version)
    except (OSError, MemoryError) as error:
        log.exception("a candidate cannot be loaded", extra={"student": version})
        raise StudentUnusable(version, "it could not be read; the log of the gateway says why") from error
    if candidate.classes != live.classes:
        raise TrafficRefused(
            part, f"{version!r} has other classes than the live student {live.version!r}", _OTHER_VERSION
        )
    if candidate.input != live.input:
        raise TrafficRefused(
            part, f"{version!r} takes other images than the live student {live.version!r}", _OTHER_VERSION
        )
    return candidate


def _need_teacher(part: str, card: StudentCard) -> None:
    if not has_teacher(card):
        raise TrafficRefused(
            part,
            f"no teacher stands behind the live student {card.version!r}",
            "Promote a student that was distilled from a teacher, or leave this part out.",
        )


def _need_threshold(policy: TrafficPolicy, card: StudentCard) -> None:
    assert policy.cascade is not None
    if threshold_of(card, policy.cascade) is None:
        raise TrafficRefused(
            "cascade",
            f"the card of the live student {card.version!r} has no curve to read a threshold from",
            "Give a threshold in place of the share, or promote a student whose job measured the curve.",
        )
