"""Fixtures of the gateway's unit tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from shared.adapters.oip_hosts import AllowedHosts
from shared.artefacts.store import ArtefactStore
from shared.jobs.memory_store import MemoryJobStore
from tests.support.gateway_in_process import InProcessGateway, MemoryDispatcher, TestClient


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    return GatewaySettings(
        state_dir=tmp_path, max_image_bytes=100_000, max_image_pixels=1_000_000, max_images=4,
        max_prediction_bytes=300_000, max_body_bytes=20_000, max_dataset_bytes=2_000_000,
        max_teacher_bytes=3_000_000, promotion_poll_s=0.02, oip_hosts=AllowedHosts.of("triton:8000"),
    )  # fmt: skip


@pytest.fixture
def gateway(settings: GatewaySettings) -> Iterator[InProcessGateway]:
    jobs, dispatcher = MemoryJobStore(), MemoryDispatcher()
    with TestClient(create_app(settings, jobs=jobs, dispatcher=dispatcher)) as client:
        yield InProcessGateway(client, ArtefactStore(settings.store_dir), jobs, dispatcher)
