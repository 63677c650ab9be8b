"""What happens to a job, as server-sent events that can be resumed."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Annotated, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from starlette.responses import StreamingResponse

from services.gateway.errors import STATUSES
from services.gateway.state import CallerDep, Gateway, GatewayDep
from shared.adapters.web.guard import authorization_of
from shared.adapters.web.problems import documented
from shared.adapters.web.scopes import needs
from shared.contracts.jobs import FINAL_STATES, JobEvent
from shared.contracts.keys import Scope
from shared.errors import JobNotFound, JobStoreUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[needs(Scope.JOBS)])

KEEP_ALIVE_S = 10.0
_LOOK_EVERY_S = 0.25
_AT_ONCE = 500

_EXAMPLE = (
    "retry: 1000\n\n"
    "id: 1795257600000-0\n"
    "event: state\n"
    'data: {"id":"1795257600000-0","kind":"state","at":"2026-11-21T11:20:00Z","data":{"state":"running"}}\n\n'
)


@router.get(
    "/{job_id}/events",
    summary="Watch a job",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events; `data` is a JobEvent. The stream ends after the final state.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
        **documented(STATUSES, JobNotFound, JobStoreUnavailable),
    },
)
async def events(
    job_id: str,
    request: Request,
    gateway: GatewayDep,
    caller: CallerDep,
    last_event_id: Annotated[
        str | None, Header(max_length=64, description="Go on behind this event; without it, from the first.")
    ] = None,
) -> StreamingResponse:
    """Stream the job's events until its final state, until the client goes, or until the gateway stops.

    It ends as well when the key that it was asked for with expires or is revoked.
    """
    # An unknown job, or another's, is 404 and no empty stream; asked once, since jobs never change hands.
    await _blocking(gateway, partial(gateway.jobs.get, job_id, caller.confined_to))
    return StreamingResponse(
        _stream(gateway, job_id, last_event_id, authorization_of(request.scope)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(
    gateway: Gateway, job_id: str, after: str | None, authorization: bytes | None
) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    said = time.monotonic()
    while not gateway.draining.begun and _may_ask(gateway, authorization):
        try:
            found, over = await _blocking(gateway, partial(_look, gateway, job_id, after))
        except JobStoreUnavailable as error:
            # The stream outlives a restart of Redis: nothing is lost, only late.
            log.warning("events are late", extra={"job_id": job_id, "reason": str(error)})
            found, over = (), False
        for event in found:
            after = event.id
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
        if over:
            return
        if found:
            said = time.monotonic()
        elif time.monotonic() - said >= KEEP_ALIVE_S:
            said = time.monotonic()
            yield ": keep-alive\n\n"
        if len(found) < _AT_ONCE:
            await gateway.draining.sleep(_LOOK_EVERY_S)


def _may_ask(gateway: Gateway, authorization: bytes | None) -> bool:
    """Tell whether the key of a stream, which was valid when it began, is valid still."""
    return gateway.ring is None or gateway.ring.known(authorization) is not None


def _look(gateway: Gateway, job_id: str, after: str | None) -> tuple[Sequence[JobEvent], bool]:
    """Return what is new, and whether nothing more can come."""
    # In this order: what is read after the final state was seen includes the event that tells it.
    final = gateway.jobs.get(job_id).state in FINAL_STATES
    found = gateway.jobs.events(job_id, after, _AT_ONCE)
    return found, final and len(found) < _AT_ONCE


async def _blocking(gateway: Gateway, call: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(call, limiter=gateway.streams)
