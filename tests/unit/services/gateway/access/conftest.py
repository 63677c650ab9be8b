from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.keyed_gateway import KeyedGateway, keyed, store_with_student


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedGateway]:
    """A gateway that asks for keys, with a student that is live."""
    root: Path = tmp_path_factory.mktemp("keyed")
    store_with_student(root)
    with keyed(root) as found:
        yield found


@pytest.fixture
def client(served: KeyedGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, trust_env=False, timeout=60) as found:
        yield found
