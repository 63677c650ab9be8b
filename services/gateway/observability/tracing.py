"""OpenTelemetry traces of requests, where the standard variables ask for them (extra `otel`).

A request is a span with children for its phases: queue, decode, infer, encode. They are made afterwards, in a
thread, from the times that were taken anyway; the event loop keeps what it is told in lists. Sampling, the
exporter's headers, time-outs and batches follow `OTEL_…`, as everywhere.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from services.gateway.hot.answered import Answered, Observer
from services.gateway.observability.ended import UNTOLD, Ended
from services.gateway.observability.otel import asked_for, need_packages

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

_HANDED_ON_S = 0.1
"""After which what was gathered goes to the thread."""
_MOST_GATHERED = 4096
"""Requests, and calls, that the event loop keeps for the thread."""
_MOST_HANDED_ON = 16
"""Lists of them that wait for the thread."""
_MOST_UNMATCHED = 8192
"""Calls whose requests have not ended yet, such as those that wait for a teacher; the oldest go first."""
_FLUSH_MS = 5_000


class Phases(NamedTuple):
    """The times of one request in a call of the student, as `time.perf_counter()` or in seconds."""

    queued: float
    decode_s: float
    called: float
    model_s: float
    encode_s: float
    """Of all the answers of the call."""
    images: int
    """In the call."""


def from_environment(environment: Mapping[str, str]) -> "Tracing | None":
    """Return what traces requests, or None where it is not asked for."""
    if not asked_for(environment):
        return None
    need_packages(environment)
    return Tracing(_provider(environment))


def _provider(environment: Mapping[str, str]) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if named else {"service.name": "imago-gateway"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracing:
    """Makes spans of requests and calls; a `Watcher`."""

    def __init__(self, provider: "TracerProvider") -> None:
        self.observers: tuple[Observer, ...] = (self.answered,)
        self._provider = provider
        self._requests: list[Ended] = []
        self._calls: list[tuple[float, Phases]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._handed_on: queue.Queue[tuple[list[Ended], list[tuple[float, Phases]]] | None] = queue.Queue(
            _MOST_HANDED_ON
        )
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, for as long as the exporter's time-out allows."""
        self._hand_on()
        self._handed_on.put(None)
        self._thread.join()
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()

    def ended(self, request: Ended) -> None:
        """Take note of a request."""
        if len(self._requests) < _MOST_GATHERED:
            self._requests.append(request)
            self._soon()
        else:
            UNTOLD.labels("traces").inc()

    def answered(self, answered: Answered) -> None:
        """Take note of a call."""
        batch, found, encode_s = answered.batch, answered.found, answered.encode_s
        if len(self._calls) < _MOST_GATHERED:
            images = len(found.order)
            self._calls += [
                (one.began, Phases(one.queued, one.decode_s, found.began, found.model_s, encode_s, images))
                for one in batch
            ]
            self._soon()

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_HANDED_ON_S, self._hand_on)

    def _hand_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gathered = self._requests, self._calls
        self._requests, self._calls = [], []
        try:
            self._handed_on.put_nowait(gathered)
        except queue.Full:
            UNTOLD.labels("traces").inc(len(gathered[0]))

    def _run(self) -> None:
        spans = Spans(self._provider)
        waiting: list[Ended] = []
        phases: dict[float, Phases] = {}
        while True:
            try:
                gathered = self._handed_on.get(timeout=5 * _HANDED_ON_S if waiting else None)
            except queue.Empty:
                gathered = [], []
            requests, calls = gathered or ([], [])
            phases.update(calls)
            # A request and its call are told one after the other, so perhaps not in the same list.
            late, waiting = waiting, []
            for request in late:
                spans.make(request, phases.pop(request.began, None))
            for request in requests:
                if request.began in phases or gathered is None:
                    spans.make(request, phases.pop(request.began, None))
                else:
                    waiting.append(request)
            for began in list(phases)[: max(0, len(phases) - _MOST_UNMATCHED)]:
                del phases[began]
            if gathered is None:
                for request in waiting:
                    spans.make(request, None)
                return


class Spans:
    """Makes the spans of requests that have ended."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._tracer = provider.get_tracer("imago.gateway")

    def make(self, request: Ended, phases: Phases | None) -> None:
        """Make the span of a request and, where it asked a student, those of its phases."""
        from opentelemetry import propagate, trace

        # Both clocks go on while this is read; a few microseconds are nothing to a trace.
        ahead_ns = time.time_ns() - time.perf_counter_ns()

        def at(moment: float) -> int:
            return int(moment * 1e9) + ahead_ns

        carrier = {
            name: value
            for name, value in (("traceparent", request.traceparent), ("tracestate", request.tracestate))
            if value is not None
        }
        attributes: dict[str, Any] = {
            "http.request.method": request.method,
            "url.path": request.path,
            "http.response.status_code": request.status,
            "http.request.body.size": request.received_bytes,
            "http.response.body.size": request.sent_bytes,
            "imago.request_id": request.request_id,
        }
        if request.route is not None:
            attributes["http.route"] = request.route
        if request.student is not None:
            attributes["imago.student"] = request.student
        if request.key_id is not None:
            attributes["imago.key_id"] = request.key_id
        span = self._tracer.start_span(
            f"{request.method} {request.route}" if request.route else request.method,
            context=propagate.extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=at(request.began),
        )
        if not span.is_recording():
            return
        if request.status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        if phases is not None:
            inside = trace.set_span_in_context(span)
            for name, begin, seconds in (
                ("decode", phases.queued - phases.decode_s, phases.decode_s),
                ("queue", phases.queued, phases.called - phases.queued),
                ("infer", phases.called, phases.model_s),
                ("encode", phases.called + phases.model_s, phases.encode_s),
            ):
                of_call = {"imago.images": phases.images} if name in ("infer", "encode") else {}
                child = self._tracer.start_span(
                    name, context=inside, attributes=of_call, start_time=at(begin)
                )
                child.end(at(begin + seconds))
        span.end(at(request.ended))
