"""A gateway that asks for keys, served by its own protocol, beside the same without its short ways."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from services.gateway.app import create_api, create_app
from services.gateway.errors import STATUSES
from services.gateway.hot.protocol import HotProtocol
from services.gateway.observability.ended import Watched, Watcher
from services.gateway.settings import GatewaySettings
from services.gateway.state import Gateway
from shared.adapters.web.access import Caller
from shared.adapters.web.boundary import Boundary
from shared.adapters.web.guard import Guard
from shared.artefacts.store import ArtefactStore
from shared.contracts.keys import KeyRequest, Scope
from shared.jobs.memory_store import MemoryJobStore
from shared.jobs.ports import JobStore
from tests.support.asgi_server import served
from tests.support.gateway_in_process import MemoryDispatcher
from tests.support.student_bundles import mlp_onnx, write_bundle


class Charged:
    """Limits that take note of what is taken, and can be used up."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.owed: list[int] = []
        self.error: Exception | None = None
        self.error_of_charge: Exception | None = None

    def take(self, caller: Caller, cost: int) -> None:
        if self.error is not None:
            raise self.error
        self.taken.append(cost)

    def charge(self, caller: Caller, cost: int) -> None:
        if self.error_of_charge is not None:
            raise self.error_of_charge
        self.owed.append(cost)

    async def close(self) -> None:
        """Nothing is open."""


@dataclass
class KeyedGateway:
    """Where it listens, and its store."""

    url: str
    store: ArtefactStore
    gateway: Gateway
    charged: Charged

    def key(self, *scopes: Scope, owner: str = "anna", **more: Any) -> dict[str, str]:
        """Make a key, which this gateway knows at once; return the header that carries it."""
        made = self.store.keys.make(KeyRequest(name="test", owner=owner, scopes=scopes, **more))
        assert self.gateway.ring is not None
        self.gateway.ring.refresh()
        return bearer(made.key)


def bearer(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def store_with_student(root: Path) -> ArtefactStore:
    """Return a store with a live student, which is sure of everything."""
    store = ArtefactStore(root / "store")
    store.students.publish("digits-1", lambda at: write_bundle(at, "digits-1", mlp_onnx(favourite=7)))
    store.students.promote("digits-1")
    return store


@contextmanager
def keyed(
    root: Path, *, short: bool = True, watchers: Sequence[Watcher] = (), jobs: JobStore | None = None
) -> Iterator[KeyedGateway]:
    """Serve a gateway with keys on.

    Args:
        root: its state directory.
        short: with its short ways; without, by uvicorn's protocol and FastAPI's routing alone.
        watchers: as of `create_app`.
        jobs: the job store; None for one in memory.
    """
    store = ArtefactStore(root / "store")
    settings = GatewaySettings(state_dir=root, auth="keys", promotion_poll_s=0.02)
    parts = {"jobs": jobs or MemoryJobStore(), "dispatcher": MemoryDispatcher()}
    if short:
        app = create_app(settings, **parts, watchers=watchers)
    else:
        api = create_api(settings, **parts, watchers=watchers)
        assert api.state.gateway.ring is not None
        guard = Guard(api, api.state.gateway.ring, STATUSES, api.state.gateway.limits.take)
        boundary = Boundary(guard, limit_bytes=settings.max_prediction_bytes)
        app = Watched(boundary, watchers) if watchers else boundary
    gateway, charged = parts_of(app), Charged()
    object.__setattr__(gateway, "limits", charged)
    guard_of(app).charge = charged.take
    with served(app, http=HotProtocol if short else "auto") as url:
        yield KeyedGateway(url, store, gateway, charged)


def parts_of(app: ASGIApp) -> Gateway:
    """Return the parts under the app's wrappers."""
    found: Any = app
    while not hasattr(found, "state"):
        found = found.app
    gateway: Gateway = found.state.gateway
    return gateway


def guard_of(app: ASGIApp) -> Guard:
    """Return the guard among the app's wrappers."""
    found: Any = app
    while not isinstance(found, Guard):
        found = found.app
    return found
