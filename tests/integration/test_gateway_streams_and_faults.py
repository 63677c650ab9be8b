"""A real gateway on a real Redis: event streams, a Redis that is away, hostile bodies, a graceful stop."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.adapters.redis_jobs import RedisJobStore
from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import JobEvent, JobResult, Progress, Stage
from tests.support.gateway_in_process import PNG_TYPE, image_file, refused
from tests.support.gateway_process import GatewayProcess
from tests.support.student_bundles import write_bundle

pytestmark = pytest.mark.integration

TEACHER = {"kind": "teacher", "name": "digits-teacher", "dataset": "mnist-5k"}


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str) -> Iterator[GatewayProcess]:
    students = ArtefactStore(tmp_path / "store").students
    students.publish("digits-1", lambda at: write_bundle(at, "digits-1"))
    students.promote("digits-1")
    limits = {"GATEWAY_MAX_PREDICTION_BYTES": "2000000", "GATEWAY_MAX_DATASET_BYTES": "4000000"}
    started = GatewayProcess(tmp_path, redis_url, **limits).start()
    yield started
    started.stop()
    assert '"level": "error"' not in started.events()


def submit(gateway: GatewayProcess, **headers: str) -> str:
    answer = httpx.post(f"{gateway.url}/v1/jobs", json=TEACHER, headers=headers, timeout=10)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def events(gateway: GatewayProcess, job: str, last: str | None = None) -> Iterator[JobEvent]:
    headers = {"Last-Event-ID": last} if last else {}
    with httpx.stream("GET", f"{gateway.url}/v1/jobs/{job}/events", headers=headers, timeout=20) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield JobEvent.model_validate_json(line.removeprefix("data: "))


def test_a_stream_that_is_cut_is_resumed_without_a_gap_or_a_repeat(gateway, redis_url):
    job = submit(gateway)
    jobs = RedisJobStore(redis_url)

    def work() -> None:
        grant = jobs.acquire(job, 30.0, 3)
        assert grant is not None
        for epoch in range(30):
            progress = Progress(stage=Stage.TRAIN, done=epoch, total=30, unit="epochs")
            jobs.progress(job, grant.epoch, progress)
            time.sleep(0.03)
        jobs.succeed(job, grant.epoch, JobResult(teacher="digits-teacher"))

    worker = threading.Thread(target=work)
    worker.start()
    seen: list[JobEvent] = []
    cuts = 0
    while not seen or seen[-1].data.get("state") != "succeeded":
        stream = events(gateway, job, seen[-1].id if seen else None)
        for count, event in enumerate(stream, start=1):
            seen.append(event)
            if count == 7:
                cuts += 1
                break
        stream.close()
    worker.join()
    assert cuts >= 3
    assert seen == list(jobs.events(job))
    jobs.close()


def test_a_key_sent_by_many_at_once_makes_one_job(gateway):
    made: list[str] = []

    def post() -> None:
        headers = {"Idempotency-Key": "once"}
        made.append(httpx.post(f"{gateway.url}/v1/jobs", json=TEACHER, headers=headers).json()["id"])

    threads = [threading.Thread(target=post) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 10
    assert len(set(made)) == 1


@pytest.mark.parametrize("fault", ["down", "hung"])
def test_without_redis_predictions_go_on_and_jobs_are_503_within_three_seconds(gateway, redis_server, fault):
    job = submit(gateway)
    if fault == "down":
        redis_server.stop(signal.SIGKILL)
    else:
        redis_server.send(signal.SIGSTOP)
    try:
        for method, path, body in (("POST", "/v1/jobs", TEACHER), ("GET", f"/v1/jobs/{job}", None)):
            began = time.monotonic()
            answer = httpx.request(method, f"{gateway.url}{path}", json=body, timeout=10)
            assert time.monotonic() - began < 3
            refused(answer, 503, "job-store-unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
        image = httpx.post(f"{gateway.url}/v1/predictions", content=image_file(), headers=PNG_TYPE)
        assert image.status_code == 200
        for path in ("/health/live", "/health/ready", "/v1/students", "/v1/datasets"):
            assert httpx.get(f"{gateway.url}{path}").status_code == 200
    finally:
        if fault == "down":
            redis_server.start()
        else:
            redis_server.send(signal.SIGCONT)
    assert httpx.get(f"{gateway.url}/v1/jobs/{job}", timeout=10).json()["id"] == job


def test_an_endless_body_is_stopped_at_the_limit(gateway):
    """A chunked body without Content-Length: the answer comes before the client has finished."""
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    for path, limit in (("/v1/predictions", 2_000_000), ("/v1/datasets", 4_000_000)):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        form = "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.zip"\r\n\r\n'
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
            client.sendall((head + form).encode() + f"{len(part):x}\r\n".encode() + part + b"\r\n")
            sent = 0
            try:
                while sent < 64 * limit:
                    client.sendall(chunk)
                    sent += 65_536
            except OSError:
                pass  # the gateway closed the connection, as it should
            assert sent < 16 * limit
            answer = client.recv(65_536)
        assert b" 413 " in answer.splitlines()[0]
        assert b"body-too-large" in answer or b"image-too-large" in answer


@pytest.mark.parametrize(
    "request_text",
    [
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET /v1/jobs/%ff%fe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /v1/jobs?cursor=%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_a_request_that_is_no_http_is_refused_and_the_gateway_lives(gateway, request_text):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(request_text)
        answer = client.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{gateway.url}/health/live").status_code == 200


def test_a_client_that_leaves_in_the_middle_of_its_upload_is_no_failure_of_ours(gateway):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        head = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        client.sendall(head + b"Content-Length: 5000\r\n\r\nhalf")
    deadline = time.monotonic() + 5
    while 'status="499"' not in (metrics := httpx.get(f"{gateway.url}/metrics").text):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 'status="500"' not in metrics


def test_a_stop_ends_open_streams_and_answers_what_is_in_flight(gateway):
    job = submit(gateway)
    ended = threading.Event()

    def follow() -> None:
        for _ in events(gateway, job):
            pass
        ended.set()

    follower = threading.Thread(target=follow)
    follower.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - began < 5
    follower.join(timeout=5)
    assert ended.is_set()


def test_a_wrong_setting_is_told_by_its_name_before_anything_starts(tmp_path, redis_url):
    gateway = GatewayProcess(tmp_path, redis_url, GATEWAY_MAX_IMAGES="none")
    with pytest.raises(RuntimeError, match=r"status 2:\n(.*\n)*GATEWAY_MAX_IMAGES"):
        gateway.start()


def test_logs_are_one_json_object_a_line_whatever_the_client_sends(gateway, redis_server):
    redis_server.stop(signal.SIGKILL)
    try:
        answer = httpx.get(
            f"{gateway.url}/v1/jobs/none?%0a%7Bforged%7D%1b%5b31m", headers={"X-Request-ID": "trace-1"}
        )
    finally:
        redis_server.start()
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (503, "trace-1")
    lines = [json.loads(line) for line in gateway.events().splitlines()]
    (refused_line,) = [line for line in lines if line.get("request_id") == "trace-1"]
    assert (refused_line["service"], refused_line["code"]) == ("gateway", "job-store-unavailable")
