"""What every chapter is handed: its size, and where its figures go."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.chaos.figures import Figure, append

T = TypeVar("T")

FULL = os.environ.get("IMAGO_CHAOS") == "full"
"""`make chaos` sets it; `make test` runs the small form."""
FIGURES = os.environ.get("IMAGO_CHAOS_FIGURES")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.chaos)
            if FULL:
                item.add_marker(pytest.mark.timeout(2400))


@pytest.fixture
def sized() -> Callable[[T, T], T]:
    """`sized(small, full)`: one of both, as the suite was called."""
    return lambda small, full: full if FULL else small


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`told(promise, what, figure, bar, held)`: print the figure, keep it, fail below the bar."""

    def tell(promise: int, what: str, figure: str, bar: str, *, held: bool) -> None:
        found = Figure(promise, what, figure, bar, held, request.node.nodeid)
        print(found.line(), flush=True)
        if FIGURES:
            append(Path(FIGURES), found)
        assert held, found.line()

    return tell
