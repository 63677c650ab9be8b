from collections.abc import Iterator

import pytest

from shared.client.following import Following
from tests.support.both_clients import KINDS, Clients
from tests.support.fake_gateway import FakeGateway


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture(params=KINDS)
def clients(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clients]:
    """Makes clients that lose no time before they try again."""
    monkeypatch.setattr("shared.client.retries.jittered_s", lambda _times: 0.0)
    monkeypatch.setattr(Following, "pause_s", lambda _self: 0.0)
    made = Clients(request.param)
    yield made
    made.close()
