"""What the routes are handed: the parts that `app.py` has put together, read from the request's app."""

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from services.gateway.access.unlimited import Limits
from services.gateway.catalogue import StoreCatalogue
from services.gateway.draining import Draining
from services.gateway.hot.batches import Batches
from services.gateway.observability.ended import Watcher
from services.gateway.observability.metrics import Counting
from services.gateway.oip.models import Models
from services.gateway.settings import GatewaySettings
from services.gateway.students.live import Live
from services.gateway.students.versions import Versions
from services.gateway.traffic.cascade import Escalations
from services.gateway.traffic.keeper import Keeper
from services.gateway.traffic.policy import Traffic
from services.gateway.traffic.shadow import Shadow
from services.gateway.transfer_sets import TransferSets
from shared.adapters.web.access import Caller, caller_of
from shared.adapters.web.keyring import KeyRing
from shared.artefacts.store import ArtefactStore
from shared.datasets.images import ImageLimits
from shared.jobs.service import JobService


@dataclass(frozen=True)
class Gateway:
    """The parts of one gateway process."""

    settings: GatewaySettings
    jobs: JobService
    store: ArtefactStore
    catalogue: StoreCatalogue
    transfer_sets: TransferSets
    live: Live
    versions: Versions
    """Students beside the live one."""
    models: Models
    """Names and versions of the students in the store."""
    traffic: Traffic
    shadow: Shadow
    """Shows copies of requests to others, where the policy says so."""
    keeper: Keeper
    """Takes images that the student was not sure of, where the policy says so."""
    draining: Draining
    batches: Batches
    """Small requests for predictions, which one call answers together."""
    counting: Counting
    escalations: Escalations
    """Requests of which the student is not sure, and which its teacher answers."""
    heavy: CapacityLimiter
    """Large requests for predictions that run in threads."""
    streams: CapacityLimiter
    """Looks of event streams at the job store: apart, so that a Redis that hangs blocks no other route."""
    uploads: CapacityLimiter
    """Datasets and teachers that are taken in."""
    image_limits: ImageLimits
    limits: Limits
    """How much each key may ask for."""
    ring: KeyRing | None = None
    """The valid keys; None where keys are off."""
    watchers: tuple[Watcher, ...] = ()
    """Are told of each request: the access log and the traces, where they are on."""


# `async def`, or FastAPI would call these few instructions in a thread.
async def gateway_of(request: Request) -> Gateway:
    """Return the parts."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def _jobs(request: Request) -> JobService:
    return (await gateway_of(request)).jobs


async def _caller(request: Request) -> Caller:
    return caller_of(request.scope)


async def _catalogue(request: Request) -> StoreCatalogue:
    return (await gateway_of(request)).catalogue.seen_by(caller_of(request.scope))


GatewayDep = Annotated[Gateway, Depends(gateway_of)]
JobsDep = Annotated[JobService, Depends(_jobs)]
CallerDep = Annotated[Caller, Depends(_caller)]
CatalogueDep = Annotated[StoreCatalogue, Depends(_catalogue)]
"""What there is, as the caller sees it."""
