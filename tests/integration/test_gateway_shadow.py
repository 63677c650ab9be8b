"""A shadow and its comparison, with real processes: what is told is what was sent."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

from shared.artefacts.store import ArtefactStore
from shared.contracts.comparisons import StudentComparison
from shared.datasets.images import ImageLimits
from shared.serving.images import EncodedImage, pixels, stacked
from shared.serving.session import StudentSession
from tests.support.gateway_in_process import PNG_TYPE, image_file
from tests.support.gateway_process import GatewayProcess
from tests.support.student_bundles import mlp_onnx, write_bundle

pytestmark = pytest.mark.integration

IMAGES = 60
LIMITS = ImageLimits(size_bytes=100_000, pixels=10_000)
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    store = ArtefactStore(tmp_path / "store")
    for seed, version in enumerate(("digits-1", "digits-2")):
        model = mlp_onnx(seed=seed)
        store.students.publish(version, lambda at, v=version, m=model: write_bundle(at, v, m))
    store.students.promote("digits-1")
    return store


@pytest.fixture
def gateway(store: ArtefactStore, tmp_path: Path) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path, NOBODY, GATEWAY_PROCESSES="2")
    try:
        yield process.start(timeout_s=90)
    finally:
        process.stop()  # also where it did not start in time: its processes would go on


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def disagreements(store: ArtefactStore, bodies: list[bytes]) -> int:
    """Return on how many images the two students name different classes, asked without a gateway."""
    one, other = (
        StudentSession.load(store.students.file(version, "card.json").parent)
        for version in ("digits-1", "digits-2")
    )
    images = stacked([pixels(EncodedImage(body), one.input, LIMITS) for body in bodies], one.input)
    differ = one.probabilities(images).argmax(axis=1) != other.probabilities(images).argmax(axis=1)
    return int(differ.sum())


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    # A connection for each request, so that the kernel deals them out to both processes.
    each = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=gateway.url, limits=each, timeout=10) as client:
        yield client


def ask(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/predictions", content=body, headers=PNG_TYPE)
    assert answer.headers["X-Student-Version"] == "digits-1", answer.text


def comparison(client: httpx.Client) -> StudentComparison:
    answer = client.get("/v1/students/digits-2/comparison")
    return StudentComparison.model_validate_json(answer.content)


def counted(client: httpx.Client, images: int) -> bool:
    """Tell whether both students were counted for so many images; the processes count a little later."""
    told = comparison(client)
    live = told.live_latency.request if told.live_latency is not None else None
    return told.shadowed_images == images and live is not None and live.count == images


def test_a_comparison_is_what_was_sent_to_all_processes_also_to_one_that_died(gateway, client, store):
    assert gateway.process is not None
    began = psutil.Process(gateway.process.pid).create_time()
    children = psutil.Process(gateway.process.pid).children()
    servers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    assert len(servers) == 2
    policy = {"shadow": {"to": "student", "version": "digits-2"}}
    assert client.put("/v1/traffic", json=policy).status_code == 200
    copied = '"requests are copied"'
    until(lambda: gateway.events().count(copied) == 2)

    bodies = [image_file(seed=seed) for seed in range(IMAGES)]
    for body in bodies[: IMAGES // 2]:
        ask(client, body)
    until(lambda: counted(client, IMAGES // 2))
    os.kill(servers[0].pid, signal.SIGKILL)
    until(lambda: gateway.events().count(copied) == 3)
    for body in bodies[IMAGES // 2 :]:
        ask(client, body)
    until(lambda: counted(client, IMAGES))

    told = comparison(client)
    assert datetime.fromtimestamp(began, UTC) <= told.since <= datetime.now(UTC)
    assert told.against_live is not None
    assert (told.role, told.live, told.answered_images) == ("shadow", "digits-1", 0)
    assert told.against_live.compared == IMAGES
    assert told.against_live.disagreed == disagreements(store, bodies) > 0
    assert told.drift is not None
    assert told.drift.images == IMAGES
    assert told.latency.call is not None
    assert told.latency.request is None
