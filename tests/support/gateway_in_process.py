"""A gateway in this process: real artefact store in a temporary folder, job store in memory."""

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from services.gateway.state import Gateway
from shared.artefacts.store import ArtefactStore
from shared.jobs.memory_store import MemoryJobStore
from tests.support.student_bundles import write_bundle

with warnings.catch_warnings():
    # Starlette would rather have a successor of httpx, which nothing here needs.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

__all__ = ["InProcessGateway", "MemoryDispatcher", "TestClient", "image_file", "refused"]

PNG_TYPE = {"Content-Type": "image/png"}


@dataclass
class MemoryDispatcher:
    """Keeps what would have been sent to a worker."""

    sent: list[str] = field(default_factory=list)

    def send(self, job_id: str) -> None:
        self.sent.append(job_id)


@dataclass
class InProcessGateway:
    client: TestClient
    store: ArtefactStore
    jobs: MemoryJobStore
    dispatcher: MemoryDispatcher

    @property
    def parts(self) -> Gateway:
        """What the routes are handed, from under the app's wrappers."""
        app = self.client.app
        while not hasattr(app, "state"):
            app = app.app
        parts: Gateway = app.state.gateway
        return parts

    def publish(self, version: str, model: bytes | None = None, **facts: object) -> None:
        def build(directory: Path) -> None:
            write_bundle(directory, version, model, **facts)

        self.store.students.publish(version, build)

    def promote(self, version: str, model: bytes | None = None, **facts: object) -> None:
        self.publish(version, model, **facts)
        answer = self.client.post(f"/v1/students/{version}/promote")
        assert answer.status_code == 200, answer.text


def image_file(height: int = 28, width: int = 28, *, form: str = "PNG", seed: int = 0) -> bytes:
    """Return an encoded grey image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def refused(answer: object, status: int, code: str) -> dict[str, object]:
    """Check that the answer is a problem with this status, code and a remedy; return it."""
    assert answer.status_code == status, answer.text  # type: ignore[attr-defined]
    assert answer.headers["content-type"] == "application/problem+json"  # type: ignore[attr-defined]
    problem: dict[str, object] = answer.json()  # type: ignore[attr-defined]
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["remedy"]
    assert problem["request_id"] == answer.headers["x-request-id"]  # type: ignore[attr-defined]
    return problem
