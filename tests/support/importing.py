"""Models from outside, taken in as teachers in this process: a store, a dataset, and jobs."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from services.worker.kinds.teacher_import import import_teacher
from services.worker.protocol import ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext
from services.worker.stages.loading import asking, load_teacher
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.findings import Finding
from shared.contracts.images import ImageInput
from shared.contracts.reports import TeacherCheckReport
from shared.contracts.specs import TeacherImportSpec
from shared.contracts.teacher_sources import (
    OnnxSource,
    SafetensorsSource,
    SentFiles,
)
from shared.errors import (
    TeacherUnfit,
)
from shared.models.network import Network
from tests.support.distilling import SHAPES, shapes

SIZE = ImageInput(height=6, width=5, channels=1)
NET = Mlp(hidden_units=(16,))


class Place:
    """A store with the dataset `shapes`, and jobs that take models in."""

    def __init__(self, state_dir: Path) -> None:
        self.settings = WorkerSettings(state_dir=state_dir, device="cpu")
        self.store = ArtefactStore(self.settings.store_dir)
        splits = {"train": shapes(400, 1), "validation": shapes(200, 2), "test": shapes(40, 3)}
        self.manifest = self.store.datasets.put("shapes", splits, classes=SHAPES, source="made up")
        self.sent: list[ChildMessage] = []
        self.jobs = 0

    def folder(self, name: str = "mine") -> Path:
        """Return a folder in `incoming`."""
        path = self.store.root / "incoming" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def context(self, spec: TeacherImportSpec) -> JobContext:
        self.jobs += 1
        order = ChildOrder(job_id=f"j-{self.jobs}", epoch=1, attempts=1, spec=spec)
        return JobContext(order, self.settings, self.store, self.sent.append)

    def take(self, source: Any, name: str = "owl", **changes: Any) -> TeacherCheckReport:
        """Import a teacher and return the report; it is there where a check failed, too."""
        spec = TeacherImportSpec(name=name, source=source, **{"dataset": "shapes"} | changes)
        context = self.context(spec)
        with suppress(TeacherUnfit):
            import_teacher(context, spec)
        return TeacherCheckReport.model_validate_json(context.files.report_json.read_bytes())

    def ask(self, name: str, images: np.ndarray) -> np.ndarray:
        """Return what the published teacher says."""
        description = self.store.teachers.current(name)
        context = self.context(TeacherImportSpec(name=name, source=OnnxSource()))
        return asking(context, load_teacher(context, description))(images)


def of(report: TeacherCheckReport, check: str) -> Finding:
    return next(one for one in report.findings if one.check == check)


def outcomes(report: TeacherCheckReport) -> set[str]:
    return {one.outcome for one in report.findings}


def trained(place: Place, network: Network, *, flipped: bool = False) -> dict[str, torch.Tensor]:
    """Return weights that know the shapes: a few steps of Adam on the training images."""
    split = place.store.datasets.load("shapes", "train")
    pixels = torch.from_numpy(np.array(split.images)).float().movedim(-1, 1) / 255
    mean, std = (
        torch.tensor(of)[:, None, None] for of in (place.manifest.pixel_mean, place.manifest.pixel_std)
    )
    images = ((1 - pixels if flipped else pixels) - mean) / std
    labels = torch.from_numpy(np.array(split.labels))
    tensors = {name: t.unsqueeze(0).requires_grad_() for name, t in network.initial(0).items()}
    adam = torch.optim.Adam(tensors.values(), lr=1e-2)
    for _ in range(40):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(network.logits(tensors, images.unsqueeze(0))[0], labels).backward()
        adam.step()
    return {name: tensor.detach()[0].clone() for name, tensor in tensors.items()}


def said(place: Place) -> dict[str, Any]:
    """Return mean, std and classes as an owner gives them."""
    return {"mean": place.manifest.pixel_mean, "std": place.manifest.pixel_std, "classes": SHAPES}


def send_net(place: Place, name: str = "mine", **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    tensors = trained(place, Network(NET, SIZE, 4))
    save_file(tensors | changes, place.folder(name) / "model.safetensors")
    return tensors


def mine(place: Place, **changes: Any) -> SafetensorsSource:
    given = {"files": SentFiles(folder="mine"), "architecture": NET} | said(place)
    return SafetensorsSource(**given | changes)
