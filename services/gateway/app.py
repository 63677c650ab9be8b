"""Puts the gateway together; the only file that knows all its parts."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cached_property

from anyio import CapacityLimiter
from fastapi import FastAPI
from starlette.types import ASGIApp

from services.gateway import routes
from services.gateway.access.audit import Audited
from services.gateway.access.limits import limits_of
from services.gateway.access.unlimited import NoLimits
from services.gateway.catalogue import StoreCatalogue
from services.gateway.draining import Draining
from services.gateway.errors import STATUSES
from services.gateway.hot.batches import Batches
from services.gateway.observability import metrics, tracing
from services.gateway.observability.access_log import AccessLog
from services.gateway.observability.ended import Watched, Watcher
from services.gateway.oip.models import Models
from services.gateway.oip.refusals import PREFIX as OIP
from services.gateway.oip.refusals import OipErrors
from services.gateway.routes.oip import short_way
from services.gateway.settings import GatewaySettings
from services.gateway.state import Gateway
from services.gateway.students.live import Live
from services.gateway.students.versions import Versions
from services.gateway.traffic.cascade import Escalations
from services.gateway.traffic.keeper import Keeper
from services.gateway.traffic.policy import Traffic
from services.gateway.traffic.shadow import Shadow
from services.gateway.traffic.teacher import TeacherAsker
from services.gateway.transfer_sets import TransferSets
from services.gateway.uploads.datasets import clear_old_uploads
from shared.adapters.redis_jobs import RedisJobStore
from shared.adapters.web import openapi, problems
from shared.adapters.web.boundary import Boundary
from shared.adapters.web.guard import Guard
from shared.adapters.web.scopes import REFUSALS
from shared.adapters.web.starting import ring_of
from shared.artefacts.store import ArtefactStore
from shared.contracts.oip import InferenceRequest
from shared.datasets.images import ImageLimits
from shared.jobs.ports import Dispatcher, JobStore
from shared.jobs.service import JobService
from shared.logs import configure_logging
from shared.settings import load
from shared.transfer_set.store import TransferSetStore

_STREAM_THREADS = 16


def from_environment() -> ASGIApp:
    """Return the app of one process, on the Redis and the artefact store that the environment names."""
    settings = load(GatewaySettings)
    configure_logging("gateway", settings.log_level)
    app = create_app(
        settings,
        jobs=RedisJobStore(settings.redis_url),
        dispatcher=_LateCelery(settings.redis_url),
        watchers=_watchers(settings),
    )
    # What is there now stays for good: the collector need not look at it again while requests wait.
    gc.collect()
    gc.freeze()
    return app


def _watchers(settings: GatewaySettings) -> list[Watcher]:
    watchers: list[Watcher] = [AccessLog()] if settings.access_log else []
    traces = tracing.from_environment(os.environ)
    return watchers if traces is None else [*watchers, traces]


class _LateCelery:
    """Sends by Celery, which is loaded for the first job: a fifth of the start, and none of serving."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url

    @cached_property
    def _celery(self) -> Dispatcher:
        from shared.adapters.dispatch import CeleryDispatcher

        return CeleryDispatcher(self._redis_url)

    def send(self, job_id: str) -> None:
        """Tell a worker of the job."""
        self._celery.send(job_id)


def create_app(
    settings: GatewaySettings, *, jobs: JobStore, dispatcher: Dispatcher, watchers: Sequence[Watcher] = ()
) -> ASGIApp:
    """Return the gateway behind its boundary (ids, body limits, metrics, a last answer) and its guard.

    `watchers` are told of each request after its answer.
    """
    api = create_api(settings, jobs=jobs, dispatcher=dispatcher, watchers=watchers)
    gateway: Gateway = api.state.gateway
    served: ASGIApp = short_way(api)
    if gateway.ring is not None:
        served = Audited(Guard(served, gateway.ring, STATUSES, gateway.limits.take))
    boundary = Boundary(
        served,
        limit_bytes=settings.max_body_bytes,
        limits_bytes={
            "/v1/predictions": settings.max_prediction_bytes,
            "/v1/datasets": settings.max_dataset_bytes,
            "/v1/teachers": settings.max_teacher_bytes,
            "/v1/teachers/": settings.max_body_bytes,
            f"{OIP}/": settings.max_prediction_bytes,
        },
        most_held_bytes=settings.max_bodies_bytes,
        to_disk=("/v1/datasets", "/v1/teachers"),
    )
    app = OipErrors(boundary)
    return Watched(app, watchers) if watchers else app


def create_api(
    settings: GatewaySettings, *, jobs: JobStore, dispatcher: Dispatcher, watchers: Sequence[Watcher] = ()
) -> FastAPI:
    """Return the routes with what they need in `app.state.gateway`."""
    ring = ring_of(settings)
    store = ArtefactStore(settings.store_dir)
    catalogue = StoreCatalogue(store, settings.data_dir)
    live = Live(store, threads=settings.threads)
    versions = Versions(store, live, threads=settings.threads, most=settings.max_loaded)
    traffic = Traffic(store, live, versions)
    keeper = Keeper(store.kept, lambda: traffic.policy.keeping)
    counting = metrics.Counting()
    batches = Batches(most_waiting=settings.max_queued, observers=(counting.observe,))
    for watcher in watchers:
        batches.observers += watcher.observers
    shadow = Shadow(
        batches,
        traffic,
        live,
        teacher_urls=settings.teacher_url,
        teacher_key=settings.teacher_key,
        differ=lambda student, pixels: keeper.offer(student, pixels, "disagreed"),
    )
    traffic.on_change.append(shadow.follow)
    gateway = Gateway(
        settings=settings,
        jobs=JobService(jobs, dispatcher, catalogue),
        store=store,
        catalogue=catalogue,
        transfer_sets=TransferSets(
            TransferSetStore(settings.transfer_sets_place, settings.transfer_sets_cache),
            catalogue,
            store.owners,
        ),
        live=live,
        versions=versions,
        models=Models(store.students, store.root / "students"),
        traffic=traffic,
        keeper=keeper,
        shadow=shadow,
        draining=Draining(),
        batches=batches,
        counting=counting,
        escalations=Escalations(
            TeacherAsker(settings.teacher_url, key=settings.teacher_key), lambda: traffic.policy
        ),
        heavy=CapacityLimiter(settings.decode_threads),
        streams=CapacityLimiter(_STREAM_THREADS),
        uploads=CapacityLimiter(settings.max_uploads),
        image_limits=ImageLimits(size_bytes=settings.max_image_bytes, pixels=settings.max_image_pixels),
        limits=NoLimits() if ring is None else limits_of(settings.redis_url, settings.processes),
        ring=ring,
        watchers=tuple(watchers),
    )
    gateway.batches.escalate = gateway.escalations
    traffic.on_change.append(gateway.escalations.follow)
    gateway.escalations.on_escalated.append(
        lambda one: gateway.keeper.offer(one.student, one.pixels, "escalated")
    )
    app = FastAPI(
        title="Imago gateway",
        version="1",
        description="Takes jobs, datasets and promotions; answers predictions of the live student at T = 1. "
        "Every refusal is a problem document (RFC 9457) with a stable `code` and a `remedy`.",
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: f"{route.tags[0]}_{route.name}",
    )
    app.state.gateway = gateway
    refusals = problems.documented(STATUSES, *REFUSALS)
    for router in routes.ROUTERS:
        app.include_router(router, responses=None if router in routes.PUBLIC else refusals)
    problems.install(app, STATUSES)
    openapi.install(app, InferenceRequest)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    gateway: Gateway = app.state.gateway
    await asyncio.to_thread(clear_old_uploads, gateway.store, gateway.jobs)
    await asyncio.to_thread(gateway.store.students.sweep)
    # Before the first request: readiness and the first answer see the student that is promoted already.
    await asyncio.to_thread(gateway.live.refresh)
    gateway.traffic.start()
    await asyncio.to_thread(gateway.traffic.refresh)
    metrics.started()
    gateway.batches.start()
    for watcher in gateway.watchers:
        watcher.start()
    every_s = gateway.settings.promotion_poll_s
    watches = [
        asyncio.create_task(gateway.live.watch(every_s)),
        asyncio.create_task(gateway.traffic.watch(every_s)),
    ]
    if gateway.ring is not None:
        watches.append(asyncio.create_task(gateway.ring.watch(every_s)))
    try:
        with gateway.draining.listening():
            yield
    finally:
        for watch in watches:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        gateway.batches.stop()
        gateway.counting.flush()
        await asyncio.to_thread(gateway.shadow.stop)
        await gateway.escalations.close()
        await gateway.limits.close()
        await asyncio.to_thread(gateway.keeper.stop)
        gateway.versions.close()
        for watcher in gateway.watchers:
            await asyncio.to_thread(watcher.stop)
