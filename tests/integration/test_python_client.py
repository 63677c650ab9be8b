"""Both clients of the public API against a gateway in a process of its own."""

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.store import ArtefactStore
from shared.client import Client, GatewayRefused, Retries
from tests.support.both_clients import KINDS, Clients
from tests.support.gateway_process import GatewayProcess
from tests.support.student_bundles import write_bundle

pytestmark = pytest.mark.integration

VERSION = "digits-1"
NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("client")
    students = ArtefactStore(directory / "store").students
    students.publish(VERSION, lambda at: write_bundle(at, VERSION))
    students.promote(VERSION)
    return directory


@pytest.fixture(scope="module")
def gateway(state_dir: Path) -> Iterator[GatewayProcess]:
    started = GatewayProcess(state_dir, NO_REDIS).start()
    yield started
    started.stop()


@pytest.fixture(params=KINDS)
def clients(request: pytest.FixtureRequest) -> Iterator[Clients]:
    made = Clients(request.param)
    yield made
    made.close()


@pytest.fixture
def client(clients: Clients, gateway: GatewayProcess):
    return clients(gateway.url)


def digits(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8))


def test_many_answers_are_those_of_one_by_one(client):
    images = digits(100)
    alone = [client.predict(image).predictions[0] for image in images]
    many = list(client.predict_many(images, batch=16, in_flight=3))
    assert len({one.predicted for one in alone}) > 1
    assert [one.predicted for one in many] == [one.predicted for one in alone]
    for one, other in zip(many, alone, strict=True):
        assert one.classes[0].probability == pytest.approx(other.classes[0].probability, abs=1e-5)
    assert {one.student for one in many} == {VERSION}


def test_a_bundle_is_downloaded_as_it_lies_in_the_store(client, state_dir: Path):
    card = client.student(VERSION)
    for name, listed in card.files.items():
        file = io.BytesIO()
        assert client.download_student_file(VERSION, name, file) == listed.size_bytes
        assert file.getvalue() == (state_dir / "store" / "students" / VERSION / name).read_bytes()


def test_a_refusal_carries_the_request_id_of_the_logs(clients: Clients, gateway: GatewayProcess):
    client = clients(gateway.url, retries=Retries(attempts=1))
    with pytest.raises(GatewayRefused) as refused:
        client.predict(b"no image")
    assert refused.value.code == "invalid-image"
    assert refused.value.request_id
    with pytest.raises(GatewayRefused) as refused:
        client.jobs()  # without Redis
    assert refused.value.code == "job-store-unavailable"
    assert refused.value.request_id in gateway.events()


def test_a_gateway_that_restarts_costs_no_answer(state_dir: Path):
    restarting = GatewayProcess(state_dir, NO_REDIS).start()
    images = digits(40)
    found: list[str] = []
    some, all_of_them = threading.Event(), threading.Event()

    def ask() -> None:
        with Client(restarting.url, retries=Retries(attempts=40)) as client:
            for one in client.predict_many(endless(images, all_of_them), batch=4, in_flight=2):
                found.append(one.predicted)
                if len(found) >= 20:
                    some.set()

    asking = threading.Thread(target=ask)
    try:
        with Client(restarting.url) as client:
            expected = [one.predicted for one in client.predict_many(images)]
        asking.start()
        assert some.wait(60)
        restarting.stop()
        before = len(found)
        # From this thread: the kernel ends the process when the thread that started it ends.
        restarting.start()
        all_of_them.set()
        asking.join(120)
        assert not asking.is_alive()
    finally:
        all_of_them.set()
        restarting.stop()
    assert len(found) > before
    assert found == (expected * len(found))[: len(found)]


def endless(images: list[np.ndarray], enough: threading.Event) -> Iterator[np.ndarray]:
    """Yield the images again and again, and once more where it is enough."""
    while not enough.is_set():
        yield from images
    yield from images
