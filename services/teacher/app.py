"""Puts the parts of the teacher service together."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import torch
from fastapi import FastAPI
from starlette.types import ASGIApp

from services.teacher import routes
from services.teacher.batchers import Batchers
from services.teacher.batching import Limits
from services.teacher.budgets import Budgets
from services.teacher.cuda import Cuda
from services.teacher.device import Cpu, TeacherDevice, device_name
from services.teacher.errors import STATUSES
from services.teacher.ledger import Ledger
from services.teacher.models import Teachers
from services.teacher.parts import Parts
from services.teacher.settings import TeacherSettings
from shared.adapters.web import openapi, problems
from shared.adapters.web.boundary import Boundary
from shared.adapters.web.guard import Guard
from shared.adapters.web.keyring import KeyRing
from shared.adapters.web.starting import ring_of
from shared.artefacts.keys import KeyStore
from shared.artefacts.store import ArtefactStore
from shared.models.devices import torch_device
from shared.settings import load

log = logging.getLogger(__name__)

_KEYS_EVERY_S = 0.5
"""How often it is looked whether keys were made or revoked."""

DESCRIPTION = """
Answers what a cumbersome model says of images: logits softened by a temperature T, softmax(z/T) on request.
Every refusal is a problem document (RFC 9457) with a stable `code` and a `remedy`.
"""


def from_environment() -> ASGIApp:
    """Return the service as the environment sets it up; uvicorn calls this."""
    return create_app(load(TeacherSettings))


def create_app(settings: TeacherSettings) -> ASGIApp:
    """Return the service behind its boundary (ids, body limits, metrics, a last answer) and its guard."""
    ring = ring_of(settings)
    served: ASGIApp = create_api(settings, ring)
    if ring is not None:
        served = Guard(served, ring, STATUSES, lambda _caller, _requests: None)
    return Boundary(served, limit_bytes=settings.max_body_bytes, most_held_bytes=settings.max_bodies_bytes)


def create_api(settings: TeacherSettings, ring: KeyRing | None = None) -> FastAPI:
    """Return the routes; the lifespan makes what they need, in `app.state.parts`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        where = torch_device(settings.device)
        torch.zeros(1, device=where)  # CUDA starts now, or says now why not
        parts = app.state.parts = Parts(
            settings=settings,
            teachers=Teachers(
                ArtefactStore(settings.store_dir).teachers,
                device=where,
                max_held=settings.max_held,
                oip_hosts=settings.oip_hosts,
                oip_timeout_s=settings.oip_timeout_s,
                probe_every_s=settings.oip_probe_s,
            ),
            batchers=Batchers(_device(where, settings), _limits(settings)),
            budgets=_budgets(settings, ring),
            limiters={
                "interactive": anyio.CapacityLimiter(settings.decode_threads),
                "bulk": anyio.CapacityLimiter(settings.decode_threads),
            },
        )
        tasks = [asyncio.create_task(parts.warm_up())]
        if ring is not None:
            tasks.append(asyncio.create_task(ring.watch(_KEYS_EVERY_S)))
        log.info("started", extra={"device": device_name(where)})
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await parts.batchers.close()
            await parts.budgets.close()
            log.info("stopped")

    app = FastAPI(
        title="Imago teacher",
        version="1",
        summary="Temperature-softened logits of trained image classifiers",
        description=DESCRIPTION,
        openapi_tags=routes.TAGS,
        lifespan=lifespan,
    )
    app.include_router(routes.router)
    problems.install(app, STATUSES)
    openapi.install(app)
    return app


def _budgets(settings: TeacherSettings, ring: KeyRing | None) -> Budgets:
    if ring is None:
        return Budgets()
    return Budgets(ring, KeyStore(settings.store_dir), Ledger(settings.ledger_path))


def _device(where: torch.device, settings: TeacherSettings) -> TeacherDevice:
    longest_s = settings.bulk_ms / 1000
    if where.type == "cuda":
        return Cuda(where, max_batch_rows=settings.max_batch_rows, longest_s=longest_s)
    return Cpu(max_batch_rows=settings.max_batch_rows, longest_s=longest_s)


def _limits(settings: TeacherSettings) -> Limits:
    return Limits(
        max_batch_rows=settings.max_batch_rows,
        queue_rows=settings.queue_rows,
        bulk_s=settings.bulk_ms / 1000,
        beside_s=settings.bulk_beside_ms / 1000,
        company_s=settings.company_ms / 1000,
    )
