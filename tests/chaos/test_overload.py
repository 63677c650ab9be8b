"""Promise 6: overload costs the excess requests only."""

import statistics
import time
from pathlib import Path

import httpx
import psutil
import pytest

from shared.artefacts.store import ArtefactStore
from tests.chaos import open_loop
from tests.support.gateway_in_process import image_file
from tests.support.gateway_process import GatewayProcess
from tests.support.student_bundles import mlp_onnx, write_bundle

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SLOW = (4000, 4000, 4000)
"""Hidden units of a student that costs so much that ten times its load is no matter of the client's."""
TIMES = 10


def memory_mib(gateway: GatewayProcess) -> float:
    assert gateway.process is not None
    return psutil.Process(gateway.process.pid).memory_info().rss / 2**20


def test_ten_times_the_load_costs_the_excess_requests_only(tmp_path: Path, redis_url: str, sized, told):
    seconds = sized(3.0, 30.0)
    students = ArtefactStore(tmp_path / "store").students
    students.publish("digits-1", lambda folder: write_bundle(folder, "digits-1", mlp_onnx(hidden=SLOW)))
    students.promote("digits-1")
    gateway = GatewayProcess(tmp_path, redis_url, GATEWAY_MAX_QUEUED="64").start()
    body = image_file()
    head = f"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    try:
        at_full = open_loop.result(open_loop.start(gateway.port, request, 32, 0, sized(1.5, 5)))
        capacity = at_full.statuses["200"] / at_full.seconds
        assert set(at_full.statuses) == {"200"}, at_full
        before = memory_mib(gateway)
        load = open_loop.start(gateway.port, request, sized(128, 512), TIMES * capacity, seconds)
        alive, most = [], before
        with httpx.Client(base_url=gateway.url, timeout=30) as prober:
            while load.poll() is None:
                began = time.perf_counter()
                assert prober.get("/health/live").status_code == 200
                alive.append(time.perf_counter() - began)
                most = max(most, memory_mib(gateway))
                time.sleep(0.02)
        answers = open_loop.result(load)
    finally:
        gateway.stop()
    total = sum(answers.statuses.values())
    offered = total / answers.seconds / capacity
    what = f"{offered:.1f} x overload for {seconds:.0f} s ({total / answers.seconds:,.0f} requests/s)"
    told(
        6,
        "overload that arrived",
        f"{offered:.1f} times {capacity:,.0f}/s, which is what it answers without excess",
        f"{TIMES} times",
        held=offered >= sized(1.5, 0.95 * TIMES),
    )
    others = {status for status in answers.statuses if status not in ("200", "429", "503")}
    told(
        6,
        f"{what}: answers",
        f"{dict(answers.statuses)}, {len(answers.broken)} broken{answers.broken[:1] or ''}, "
        f"{answers.without_retry_after} refusals without Retry-After",
        "2xx, 429 and 503 with Retry-After only",
        held=not others and not answers.broken and not answers.without_retry_after
        and answers.statuses["503"] + answers.statuses["429"] > 0,
    )  # fmt: skip
    answered = answers.statuses["200"] / answers.seconds
    told(
        6,
        f"{what}: still answered",
        f"{answered:,.0f}/s, {answered / capacity:.0%} of what it answers without excess",
        "at least a quarter, the client on the same cores",
        held=answered >= sized(0.05, 0.25) * capacity,
    )
    p99 = statistics.quantiles(alive, n=100)[98]
    told(
        6,
        f"{what}: liveness p99",
        f"{p99 * 1000:.0f} ms of {len(alive)}",
        "100 ms",
        held=p99 < sized(5.0, 0.1),
    )
    told(6, f"{what}: memory", f"+ {most - before:.0f} MiB", "+ 100 MiB", held=most - before < 100)
