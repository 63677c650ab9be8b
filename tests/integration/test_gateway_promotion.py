"""Promotions reach every process that serves the store, and no request notices."""

import asyncio
import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.gateway.traffic.canary import place
from shared.artefacts.store import ArtefactStore
from tests.support.gateway_in_process import image_file
from tests.support.gateway_process import GatewayProcess
from tests.support.promotions import promote_under_load, publish_students
from tests.support.student_bundles import mlp_onnx, write_bundle

pytestmark = pytest.mark.integration

NO_REDIS = "redis://127.0.0.1:1/0"
STUDENTS = {"digits-3": 3, "digits-7": 7}
"""Two students, each of which always names its own digit."""


class Load:
    """One connection that asks for predictions as fast as they come and keeps what was wrong with them."""

    def __init__(self, port: int) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._port = port
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        body = image_file()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v1/predictions", body, {"Content-Type": "image/png"})
                response = connection.getresponse()
                text = response.read().decode()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            version = response.headers.get("X-Student-Version", "")
            digit = STUDENTS.get(version)
            if response.status != 200 or f'"student":"{version}"' not in text:
                self.failures.append(f"{response.status} {version} {text}")
            elif f'"predicted":"{digit}"' not in text:
                self.failures.append(f"{version} answered with another student's class: {text}")
            self.answers[version] += 1
        connection.close()


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    store = ArtefactStore(tmp_path / "store")
    for version, digit in STUDENTS.items():
        model = mlp_onnx(favourite=digit)
        store.students.publish(version, lambda at, v=version, m=model: write_bundle(at, v, m))
    store.students.promote("digits-3")
    return store


@pytest.fixture
def gateways(store: ArtefactStore, tmp_path: Path, redis_url: str) -> Iterator[list[GatewayProcess]]:
    started = [GatewayProcess(tmp_path, redis_url).start() for _ in range(2)]
    yield started
    for gateway in started:
        gateway.stop()


def live(gateway: GatewayProcess) -> str:
    return str(httpx.get(f"{gateway.url}/health/ready").json()["student"])


def test_twenty_promotions_under_load_fail_no_request_in_either_process(gateways, store):
    promoter, follower = gateways
    with Load(promoter.port) as here, Load(follower.port) as there:
        for i in range(20):
            version = sorted(STUDENTS)[(i + 1) % 2]
            answer = httpx.post(f"{promoter.url}/v1/students/{version}/promote", timeout=10)
            assert answer.status_code == 200
            assert live(promoter) == version
            moved = time.monotonic()
            while live(follower) != version:
                assert time.monotonic() - moved < 30
                time.sleep(0.01)
    assert here.failures == there.failures == []
    for load in (here, there):
        assert set(load.answers) == set(STUDENTS)
    live_now = store.students.live()
    assert live_now is not None
    assert live_now.promotion == 21


def test_two_gateways_that_promote_at_once_agree_in_the_end(gateways, store):
    def promote(gateway: GatewayProcess, version: str) -> None:
        for _ in range(10):
            assert httpx.post(f"{gateway.url}/v1/students/{version}/promote", timeout=10).status_code == 200

    threads = [
        threading.Thread(target=promote, args=pair) for pair in zip(gateways, sorted(STUDENTS), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pointer = store.students.live()
    assert pointer is not None
    deadline = time.monotonic() + 30
    while {live(gateway) for gateway in gateways} != {pointer.version}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_several_processes_on_one_port_follow_a_promotion_and_add_up_their_counts(
    store: ArtefactStore, tmp_path: Path, redis_url: str
):
    gateway = GatewayProcess(tmp_path, redis_url, GATEWAY_PROCESSES="2").start()
    try:
        answer = httpx.post(f"{gateway.url}/v1/students/digits-7/promote", timeout=10)
        assert answer.status_code == 200
        time.sleep(1.0)  # the other process looks every 0.2 s
        answers: Counter[str] = Counter()
        for _ in range(40):  # a new connection each time, so that both processes are met
            answers[httpx.get(f"{gateway.url}/health/ready").json()["student"]] += 1
            image = httpx.post(
                f"{gateway.url}/v1/predictions", content=image_file(), headers={"Content-Type": "image/png"}
            )
            assert image.json()["predictions"][0]["predicted"] == "7"
        assert answers == {"digits-7": 40}
        counted = 'imago_predictions_total{student="digits-7"} 40.0'
        assert counted in httpx.get(f"{gateway.url}/metrics").text
    finally:
        gateway.stop()


def test_promotions_under_load_some_corrupt_fail_and_mix_no_answer_without_redis(tmp_path: Path):
    """The small one of `benchmarks/promotions.py`, which has 200 promotions and a larger student."""
    students = publish_students(ArtefactStore(tmp_path / "store"))
    gateway = GatewayProcess(tmp_path, NO_REDIS, GATEWAY_PROCESSES="2").start()
    try:
        outcome = asyncio.run(
            promote_under_load(gateway.port, students, connections=6, promotions=10, corrupt=2)
        )
    finally:
        gateway.stop()
    assert (outcome.failed, outcome.mixed) == ([], [])
    assert (outcome.promoted, outcome.refused) == (8, {"student-unusable": 2})
    assert set(outcome.by_version) == set(students.versions)


def test_a_canary_is_sticky_in_every_process_and_after_a_restart_without_redis(
    store: ArtefactStore, tmp_path: Path
):
    keys = [f"user-{number}" for number in range(12)]
    expected = {key: "digits-7" if place(key, "digits-7") < 0.5 else "digits-3" for key in keys}
    assert set(expected.values()) == set(STUDENTS)

    def answers(port: int) -> dict[str, str]:
        found = {}
        for key in keys:  # a new connection each time, so that both processes are met
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            headers = {"Content-Type": "image/png", "X-Canary-Key": key}
            connection.request("POST", "/v1/predictions", image_file(), headers)
            response = connection.getresponse()
            found[key] = response.headers["X-Student-Version"]
            assert f'"predicted":"{STUDENTS[found[key]]}"' in response.read().decode()
            connection.close()
        return found

    gateway = GatewayProcess(tmp_path, NO_REDIS, GATEWAY_PROCESSES="2").start()
    try:
        policy = {"canary": {"version": "digits-7", "share": 0.5}}
        assert httpx.put(f"{gateway.url}/v1/traffic", json=policy, timeout=10).status_code == 200
        deadline = time.monotonic() + 30
        while not all(answers(gateway.port) == expected for _ in range(3)):  # the other process follows
            assert time.monotonic() < deadline
    finally:
        gateway.stop()
    restarted = GatewayProcess(tmp_path, NO_REDIS).start()
    try:
        assert answers(restarted.port) == expected
    finally:
        restarted.stop()
