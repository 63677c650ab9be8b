"""Traffic: who answers how much of it, who is asked beside it, and what is kept of it."""

from typing import Annotated

from fastapi import APIRouter, Body, Header, Response

from services.gateway import examples
from services.gateway.errors import STATUSES, UNREADABLE
from services.gateway.state import Gateway, GatewayDep
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import ScopedRoute, needs
from shared.contracts.keys import Scope
from shared.contracts.traffic import TrafficPolicy, TrafficView
from shared.errors import (
    BodyTooLarge,
    NoLiveStudent,
    RevisionMismatch,
    StoreFull,
    StudentNotFound,
    StudentNotLoaded,
    StudentUnusable,
    TrafficRefused,
)

router = APIRouter(
    prefix="/v1/traffic", tags=["traffic"], dependencies=[needs(Scope.ADMIN)], route_class=ScopedRoute
)

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=64,
        description="ETag of the policy that is to be replaced; another one that is there meanwhile is 412",
    ),
]

_ANSWER = {
    "headers": {"ETag": {"description": "The revision, for If-Match", "schema": {"type": "string"}}},
    **examples.answers(examples.TRAFFIC),
}


@router.get("", summary="The traffic policy", responses={200: _ANSWER})
def show(response: Response, gateway: GatewayDep) -> TrafficView:
    """Return the policy in the store, and why parts of it cannot hold in this process, where they cannot."""
    return _tagged(response, gateway.traffic.view())


@router.put(
    "",
    summary="Set the traffic policy",
    responses={
        200: _ANSWER,
        400: UNREADABLE,
        **documented(
            STATUSES,
            StudentNotFound,
            StudentUnusable,
            TrafficRefused,
            StoreFull,
            NoLiveStudent,
            StudentNotLoaded,
            RevisionMismatch,
            BodyTooLarge,
        ),
    },
)
def replace(
    policy: Annotated[
        TrafficPolicy, Body(examples=[examples.TRAFFIC.policy.model_dump(mode="json", exclude_none=True)])
    ],
    response: Response,
    gateway: GatewayDep,
    if_match: IfMatch = None,
) -> TrafficView:
    """Replace the policy as a whole; a part that is left out is off. It holds without a restart.

    `canary`: a share of the requests is answered by a candidate, always the same for the same `X-Canary-Key`.
    `shadow`: a copy of a share goes to a candidate or to the teacher. `cascade`: where the student is not
    confident, its teacher answers. `keeping`: images that were escalated or disagreed on are kept.

    Candidates are loaded and checked before the policy is taken: they must exist, answer as their cards say,
    and take the same images to the same classes as the live student. This process follows at once, every
    other within half a second. What names a student ends when that student is promoted or rolled back from.
    """
    return _tagged(response, gateway.traffic.set(policy, revision=_revision(if_match, gateway)))


@router.delete(
    "",
    summary="Switch all of the traffic policy off",
    responses={200: _ANSWER, **documented(STATUSES, RevisionMismatch, StoreFull)},
)
def clear(response: Response, gateway: GatewayDep, if_match: IfMatch = None) -> TrafficView:
    """Let the live student answer everything alone, and keep nothing."""
    return _tagged(response, gateway.traffic.set(TrafficPolicy(), revision=_revision(if_match, gateway)))


def _tagged(response: Response, view: TrafficView) -> TrafficView:
    response.headers["ETag"] = f'"{view.revision}"'
    return view


def _revision(if_match: str | None, gateway: Gateway) -> int | None:
    """Return which revision a client wants to replace, None for any."""
    if if_match is None or if_match.strip() == "*":
        return None
    given = if_match.strip().removeprefix('"').removesuffix('"')
    if given.isascii() and given.isdecimal():
        return int(given)
    raise RevisionMismatch(gateway.store.students.traffic().revision, if_match)
