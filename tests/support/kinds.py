"""Jobs of any kind in this process, one after another: no worker, and a teacher that looks at the pixels."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.worker.kinds.registry import run
from services.worker.protocol import ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext, JobWaits
from shared.artefacts.datasets import Split
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.jobs import ChildJob, JobResult, JobState
from shared.contracts.specs import JobSpec
from shared.contracts.teachers import Nets, TeacherDescription
from tests.support.cohorts import CLASSES, PREPROCESSING, pictures

NAMES = tuple("abcd")


class SharpTeacher:
    """Stands in for `TeacherClient`: its logits say how bright each quarter of an image is."""

    asked = 0

    def __init__(self, _url: str, **_: Any) -> None:
        self.rows_asked = 0

    def __enter__(self) -> "SharpTeacher":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def soft_targets(
        self, _name: str, batches: Iterable[np.ndarray], **_: Any
    ) -> Iterator[tuple[int, np.ndarray]]:
        for index, images in enumerate(batches):
            self.rows_asked += len(images)
            SharpTeacher.asked += len(images)
            quarters = images.astype(np.float32).reshape(len(images), 2, 3, 2, 3).mean((2, 4))
            logits = quarters.reshape(len(images), 4) / 10
            yield index, logits - logits.mean(-1, keepdims=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Train on one thread: nets this small only wait for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Bench:
    """A store with the dataset `quarters` (200 images to train, 60 to validate, 80 to test), and jobs."""

    def __init__(self, state_dir: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.settings = WorkerSettings(state_dir=state_dir, device="cpu", **settings)
        self.store = ArtefactStore(self.settings.store_dir)
        splits = {}
        for seed, (name, rows) in enumerate((("train", 200), ("validation", 60), ("test", 80)), start=1):
            images, labels = pictures(rows, seed)
            splits[name] = Split(images.numpy(), labels.numpy())
        self.manifest = self.store.datasets.put("quarters", splits, classes=NAMES, source="a test")
        self.owner: str | None = None
        """Of the jobs that are run from now on."""
        self.sent: list[ChildMessage] = []
        self.runs: list[str] = []
        monkeypatch.setattr(SharpTeacher, "asked", 0)
        self.monkeypatch = monkeypatch

    def publish_teacher(self, name: str = "big", **changes: Any) -> TeacherDescription:
        """Put a teacher into the store; its weights are of no account, `SharpTeacher` answers for it."""
        fields = {
            "name": name,
            "tensors": {"layers.0.weight": np.zeros((1, CLASSES, 36), np.float32)},
            "classes": NAMES,
            "preprocessing": PREPROCESSING,
            "test_accuracy": None,
            "job_id": None,
            "created_at": self.manifest.created_at,
        }
        of_nets = {option: changes.pop(option) for option in tuple(changes) if option in Nets.model_fields}
        model = Nets(architecture=Mlp(hidden_units=(4,))).model_copy(update=of_nets)
        description = self.store.teachers.publish_nets(**{"model": model, **fields, **changes})
        self.store.teachers.make_current(name, description.digest)
        return description

    def context(self, job_id: str, spec: JobSpec, children: tuple[ChildJob, ...] = ()) -> JobContext:
        """Return what one attempt at a job is given."""
        order = ChildOrder(job_id=job_id, epoch=1, attempts=1, spec=spec, children=children, owner=self.owner)
        return JobContext(order, self.settings, self.store, self.sent.append)

    def run(self, job_id: str, spec: JobSpec) -> JobResult:
        """Run a job to its end, its children in their order whenever it waits for them."""
        children: list[ChildJob] = []
        while True:
            self.runs.append(job_id)
            before = len(self.sent)
            try:
                return run(self.context(job_id, spec, tuple(children)))
            except JobWaits:
                pass
            for child in [message.child for message in self.sent[before:] if message.child is not None]:
                child_id = f"{job_id}-{len(children):03d}"
                result = self.run(child_id, child)
                children.append(
                    ChildJob(id=child_id, kind=child.kind, state=JobState.SUCCEEDED, result=result)
                )
