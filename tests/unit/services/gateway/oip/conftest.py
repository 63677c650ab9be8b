"""Fixtures of the tests of the Open Inference Protocol."""

from collections.abc import Iterator

import pytest

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from shared.artefacts.store import ArtefactStore
from shared.jobs.memory_store import MemoryJobStore
from tests.support.gateway_in_process import InProcessGateway, MemoryDispatcher, TestClient


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessGateway]:
    """A gateway with a live student, for tests that change neither."""
    settings = GatewaySettings(
        state_dir=tmp_path_factory.mktemp("live"), max_image_bytes=100_000, max_image_pixels=1_000_000,
        max_images=4, max_prediction_bytes=300_000,
    )  # fmt: skip
    jobs, dispatcher = MemoryJobStore(), MemoryDispatcher()
    with TestClient(create_app(settings, jobs=jobs, dispatcher=dispatcher)) as client:
        found = InProcessGateway(client, ArtefactStore(settings.store_dir), jobs, dispatcher)
        found.promote("digits-1")
        yield found
