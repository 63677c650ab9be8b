"""Puts the worker together: Celery that takes ids, the supervisor, the reconciler, the health server.

Celery's pool is threads. A job's work happens in a training process of its own, so a pool process in between
would only be one more thing to die; and with one process a `kill -9` of the worker takes its children along.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from celery import Celery, bootsteps, signals

from services.worker.health import HealthServer, Heartbeat
from services.worker.metrics import WorkerMetrics
from services.worker.reconciler import Reconciler
from services.worker.settings import WorkerSettings
from services.worker.supervisor import Supervisor
from services.worker.tasks import register
from shared.adapters.dispatch import CeleryDispatcher, consumer_options, create_app
from shared.adapters.queue_entries import take_only_ours
from shared.adapters.redis_jobs import RedisJobStore
from shared.contracts.task_names import JOBS_QUEUE
from shared.errors import JobStoreUnavailable

log = logging.getLogger(__name__)


def create_consumer(settings: WorkerSettings) -> Celery:
    """Return the Celery app by the settings that lost nothing in our experiments."""
    app = create_app(settings.redis_url, consumer_options())
    app.conf.update(
        # The message goes away with the job's end, or the worker's: the record bounds the attempts.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # True loses the running task where broker and results share a Redis that restarts.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Such as a Redis whose memory or disk is full: it refuses to be written to for a while.
        broker_channel_error_retry=True,
        # Nothing asks for it, and whoever could publish could stop every worker.
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    take_only_ours(app)
    return app


def run(settings: WorkerSettings) -> int:
    """Run the worker until SIGTERM or SIGINT; return its exit status.

    On either signal training processes make a checkpoint and leave, their jobs go back to the queue, and the
    worker ends within `shutdown_grace_s` and a few seconds.
    """
    logging.captureWarnings(True)
    for chatty in ("celery.app.trace", "celery.worker.strategy"):
        # One line a message says what our own lines on jobs say better.
        logging.getLogger(chatty).setLevel(logging.WARNING)
    told_to_leave, stopping = Event(), Event()
    metrics = WorkerMetrics()
    store = RedisJobStore(settings.redis_url)
    dispatcher = CeleryDispatcher(settings.redis_url)
    app = create_consumer(settings)
    app.steps["worker"].add(leaving(stopping))
    register(app, Supervisor(store, dispatcher, settings, metrics, stopping))
    worker: Any = app.Worker(
        hostname=f"worker-{os.getpid()}@{socket.gethostname()}",
        pool="threads",
        concurrency=settings.concurrency,
        queues=[JOBS_QUEUE],
        loglevel=settings.log_level,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )

    reconciler = Reconciler(store, dispatcher, metrics, stopping, settings.reconcile_s)

    def readiness() -> dict[str, bool]:
        consumer = worker.consumer
        return {
            "consuming": not stopping.is_set() and getattr(consumer, "task_consumer", None) is not None,
            "redis": _answers(store),
            "reconciling": reconciler.is_alive(),
        }

    try:
        health = HealthServer(settings.health_host, settings.health_port, readiness, metrics.registry)
    except OSError as error:
        raise SystemExit(f"WORKER_HEALTH_PORT: cannot listen on {settings.health_port}: {error}") from error
    heartbeat = Heartbeat(settings.heartbeat_path, readiness, stopping)
    with _stop_on_shutdown(told_to_leave, stopping):
        health.start()
        heartbeat.start()
        reconciler.start()
        log.info("worker started", extra={"pid": os.getpid(), "health_port": health.port})
        try:
            worker.start()
            # Celery counts Ctrl-C as a failure; to leave when told is none.
            status = 0 if told_to_leave.is_set() else int(worker.exitcode or 0)
        finally:
            stopping.set()
            for thread in (heartbeat, reconciler):
                thread.join(timeout=5)
            health.close()
            dispatcher.close()
            store.close()
    log.info("worker stopped")
    return status


def _answers(store: RedisJobStore) -> bool:
    try:
        store.ping()
    except JobStoreUnavailable:
        return False
    return True


def leaving(stopping: Event) -> type[bootsteps.StartStopStep]:
    """Return a step of Celery's worker that sets `stopping` once the worker leaves, whatever the reason.

    Celery waits for running jobs before it ends, and these go on until `stopping` is set.
    """

    class Leaving(bootsteps.StartStopStep):  # type: ignore[misc]
        def close(self, _worker: object) -> None:
            """Begin to leave; Celery calls it before it stops anything."""
            stopping.set()

    return Leaving


@contextmanager
def _stop_on_shutdown(told_to_leave: Event, stopping: Event) -> Iterator[None]:
    """Set both as soon as Celery is told to leave, and keep Celery from configuring the logs."""

    def on_shutdown(**_: object) -> None:
        told_to_leave.set()
        stopping.set()

    def on_logging(**_: object) -> None:
        """Being connected is enough: Celery leaves logging alone then."""

    signals.worker_shutting_down.connect(on_shutdown, weak=False)
    signals.setup_logging.connect(on_logging, weak=False)
    try:
        yield
    finally:
        signals.worker_shutting_down.disconnect(on_shutdown)
        signals.setup_logging.disconnect(on_logging)
