"""Access log and traces of a gateway in two processes, with a real collector's side of OTLP over HTTP."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")

from shared.artefacts.store import ArtefactStore
from tests.support.gateway_in_process import PNG_TYPE, image_file
from tests.support.gateway_process import GatewayProcess
from tests.support.otlp_receiver import Receiver, attributes, receiving
from tests.support.student_bundles import write_bundle

pytestmark = pytest.mark.integration

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
NOT_SAMPLED = {"traceparent": "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, Receiver]]:
    at: Path = tmp_path_factory.mktemp("gateway")
    students = ArtefactStore(at / "store").students
    students.publish("digits-1", lambda folder: write_bundle(folder, "digits-1"))
    students.promote("digits-1")
    with receiving() as receiver:
        gateway = GatewayProcess(
            at,
            "redis://127.0.0.1:1/0",
            GATEWAY_PROCESSES="2",
            GATEWAY_ACCESS_LOG="true",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=mine",
            OTEL_TRACES_SAMPLER="parentbased_always_off",
            OTEL_BSP_SCHEDULE_DELAY="100",
        )
        try:
            gateway.start(timeout_s=120)
            yield gateway, receiver
        finally:
            gateway.stop()


def lines(gateway: GatewayProcess, **facts: object) -> list[dict[str, object]]:
    """Return the lines about requests that these facts are true of, once there are any."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        events = [json.loads(one) for one in gateway.events().splitlines() if one.startswith("{")]
        found = [one for one in events if facts.items() <= one.items() and one["event"] == "request"]
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(gateway.events())


def test_a_prediction_by_the_short_way_is_a_span_with_its_phases_and_a_line(told):
    gateway, receiver = told
    image = image_file()
    headers = PNG_TYPE | SAMPLED | {"X-Request-ID": "traced-1"}
    answer = httpx.post(f"{gateway.url}/v1/predictions?top=3", content=image, headers=headers)
    assert answer.is_success
    spans = {span.name: span for span in receiver.wait_for(5) if span.trace_id.hex() == TRACE}
    request = spans.pop("POST /v1/predictions")
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    facts = attributes(request)
    assert facts["imago.request_id"] == "traced-1"
    assert facts["imago.student"] == "digits-1"
    assert facts["http.response.status_code"] == 200
    assert set(spans) == {"decode", "queue", "infer", "encode"}
    for span in spans.values():
        assert span.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
    assert spans["infer"].end_time_unix_nano <= request.end_time_unix_nano
    assert abs(request.start_time_unix_nano / 1e9 - time.time()) < 300
    assert {resource["service.name"] for resource in receiver.resources} == {"imago-gateway"}
    assert receiver.headers[0]["x-tenant"] == "mine"
    (line,) = lines(gateway, request_id="traced-1")
    assert (line["path"], line["query"], line["status"]) == ("/v1/predictions", ["top"], 200)
    assert (line["received_bytes"], line["sent_bytes"]) == (len(image), len(answer.content))
    assert line["student"] == "digits-1"


def test_a_client_that_does_not_sample_is_not_traced_and_is_logged(told):
    gateway, receiver = told
    for number in range(3):
        headers = PNG_TYPE | NOT_SAMPLED | {"X-Request-ID": f"quiet-{number}"}
        httpx.post(f"{gateway.url}/v1/predictions", content=image_file(), headers=headers)
    refused = httpx.post(f"{gateway.url}/v1/predictions", content=b"", headers={"X-Request-ID": "empty"})
    assert refused.status_code == 422
    # What is sampled later comes later.
    httpx.get(f"{gateway.url}/v1/students", headers={"traceparent": SAMPLED["traceparent"]})
    deadline = time.monotonic() + 60
    while "GET /v1/students" not in {span.name for span in receiver.spans}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
    assert len(lines(gateway, request_id="quiet-2")) == 1
    (line,) = lines(gateway, request_id="empty")
    assert line["status"] == 422
    assert "student" not in line
