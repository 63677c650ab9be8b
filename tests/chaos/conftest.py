"""What every chapter is handed: its size, and where its figures go."""

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.chaos.figures import Figure, append, without_figure

T = TypeVar("T")

FULL = os.environ.get("IMAGO_CHAOS") == "full"
"""`make chaos` sets it; `make test` runs the small form."""
FIGURES = os.environ.get("IMAGO_CHAOS_FIGURES")
MISSED = pytest.StashKey[list[str]]()
"""The figures of a test that stayed below their bars."""


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
    """`told(promise, what, figure, bar, held)`: print the figure and keep it; below the bar the test fails.

    It fails where it ends, so that all of its figures are told.
    """

    def tell(promise: int, what: str, figure: str, bar: str, *, held: bool) -> None:
        found = Figure(promise, what, figure, bar, bool(held), request.node.nodeid)
        print(found.line(), flush=True)
        if FIGURES:
            append(Path(FIGURES), found)
        if not held:
            request.node.stash.setdefault(MISSED, []).append(found.line())

    return tell


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    ran = yield
    missed = pyfuncitem.stash.get(MISSED, [])
    assert not missed, "\n".join(missed)
    return ran


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that broke before its figure, or was skipped, has a line in the table as well."""
    if FIGURES and "tests/chaos/" in report.nodeid and (found := without_figure(report, Path(FIGURES))):
        print(found.line(), flush=True)
        append(Path(FIGURES), found)
