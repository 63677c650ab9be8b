"""When traces are asked for, and what the spans of a request are; tests/integration has the collector."""

import subprocess
import sys
from itertools import pairwise

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from services.gateway.app import create_app
from services.gateway.observability.tracing import Phases, Spans, Tracing, asked_for, need_packages
from shared.artefacts.store import ArtefactStore
from shared.jobs.memory_store import MemoryJobStore
from tests.support.gateway_in_process import (
    PNG_TYPE,
    InProcessGateway,
    MemoryDispatcher,
    TestClient,
    image_file,
)
from tests.unit.services.gateway.observability.test_access_log import ended

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter):
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "true"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_ask_for_traces(environment, asked):
    assert asked_for(environment) is asked


def test_without_the_packages_a_gateway_that_is_asked_for_traces_says_what_to_install():
    script = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk.trace.export'] = None\n"
        "from services.gateway.observability.tracing import need_packages\n"
        f"need_packages({ENDPOINT!r})\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "pip install imago[otel]" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_another_protocol_than_that_of_http_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        need_packages(ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert left.value.code == 2
    assert "http/protobuf alone, got 'grpc'" in capsys.readouterr().err


def test_a_request_that_asked_a_student_has_its_phases_one_after_the_other(provider, exporter):
    phases = Phases(queued=1.03, decode_s=0.02, called=1.05, model_s=0.1, encode_s=0.01, images=3)
    Spans(provider).make(ended(route="/v1/predictions", method="POST", traceparent=PARENT), phases)
    *children, request = exporter.get_finished_spans()
    assert request.name == "POST /v1/predictions"
    assert request.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert request.parent.span_id == 0xB7AD6B7169203331
    assert [child.name for child in children] == ["decode", "queue", "infer", "encode"]
    assert all(child.parent.span_id == request.context.span_id for child in children)
    lasted_ms = [round((child.end_time - child.start_time) / 1e6) for child in children]
    assert lasted_ms == [20, 20, 100, 10]
    assert round((children[0].start_time - request.start_time) / 1e6) == 10
    for before, after in pairwise(children):
        assert abs(after.start_time - before.end_time) < 1000
    assert children[2].attributes["imago.images"] == 3


def test_the_client_decides_whether_its_request_is_sampled(provider, exporter):
    spans = Spans(provider)
    spans.make(ended(traceparent=PARENT[:-2] + "00"), None)
    assert exporter.get_finished_spans() == ()
    spans.make(ended(traceparent="nonsense"), None)
    (own,) = exporter.get_finished_spans()
    assert own.parent is None


def test_a_failure_of_ours_is_an_error_and_a_refusal_is_none(provider, exporter):
    spans = Spans(provider)
    for status in (404, 503):
        spans.make(ended(status=status), None)
    refusal, failure = exporter.get_finished_spans()
    assert refusal.status.status_code is StatusCode.UNSET
    assert failure.status.status_code is StatusCode.ERROR


def test_requests_by_the_app_are_matched_with_their_calls_and_all_are_sent_at_the_end(
    settings, provider, exporter
):
    jobs, dispatcher = MemoryJobStore(), MemoryDispatcher()
    tracing = Tracing(provider)
    app = create_app(settings, jobs=jobs, dispatcher=dispatcher, watchers=[tracing])
    with TestClient(app) as client:
        gateway = InProcessGateway(client, ArtefactStore(settings.store_dir), jobs, dispatcher)
        gateway.promote("digits-1")
        form = {"images": ("seven.png", image_file(), "image/png")}
        assert client.post("/v1/predictions", files=form).is_success
        assert client.post("/v1/predictions", content=b"no image", headers=PNG_TYPE).status_code == 422
        assert client.get("/v1/students").is_success
    spans = exporter.get_finished_spans()
    requests = {span.context.span_id: span for span in spans if span.parent is None}
    assert [span.name for span in requests.values()].count("POST /v1/predictions") == 2
    assert "GET /v1/students" in [span.name for span in requests.values()]
    assert "POST /v1/students/{version}/promote" in [span.name for span in requests.values()]
    children = [span for span in spans if span.parent is not None]
    assert sorted(span.name for span in children) == ["decode", "encode", "infer", "queue"]
    (asked,) = {span.parent.span_id for span in children}
    assert requests[asked].attributes["imago.student"] == "digits-1"
    assert requests[asked].attributes["http.response.status_code"] == 200
