"""A store with random images, jobs on it, and a teacher in process: a fixed linear map of the pixels."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.worker.protocol import ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext
from services.worker.stages.transfer_sets.examples import taught_examples
from services.worker.stages.transfer_sets.stage import BuiltTransferSet, build_transfer_set
from shared.adapters.teacher_client import TeacherClient
from shared.artefacts.datasets import Split
from shared.artefacts.store import ArtefactStore
from shared.contracts.specs import DistillationSpec
from shared.contracts.training import Asking, TransferSetSpec
from shared.distillation.examples import Examples
from shared.distillation.plots import drawn
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.store import TransferSetStore
from tests.support.teachers_at_rest import publish_teacher

PLOT = drawn("entropy", "Entropy of the targets by temperature", lambda _: None, size=(1.0, 1.0))
"""Drawn once, for tests in which it does not matter what a summary's plot shows: a second each time."""
ROWS = 2_000
LABELS = (np.arange(ROWS) % 10).astype(np.int64)
CLASSES = tuple("0123456789")


class LinearTeacher:
    """Answers as `TeacherClient` does, out of order."""

    def __init__(self) -> None:
        self.weights = np.random.default_rng(0).normal(size=(784, 10)).astype(np.float32)
        self.rows = 0
        self.requests: list[int] = []
        """Rows of each that was drawn."""
        self.before: Callable[[int], None] = lambda request: None
        """Told the number of each answer before it is given."""

    def answer(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), 784).astype(np.float32) / 255 @ self.weights

    def soft_targets(
        self,
        _name: str,
        batches: Iterator[np.ndarray],
        *,
        should_stop: Callable[[], bool] = lambda: False,
        **_: object,
    ) -> Iterator[tuple[int, np.ndarray]]:
        asked = []
        for index, images in enumerate(batches):
            self.requests.append(len(images))
            asked.append((index, images))
        for index, images in reversed(asked):
            self.before(len(self.requests) - index)
            if should_stop():
                return
            self.rows += len(images)
            yield index, self.answer(images)


class Stack:
    """A store with the dataset `noise` and the teacher `big`, and jobs on it."""

    def __init__(self, state_dir: Path, labels: np.ndarray | None = LABELS) -> None:
        self.settings = WorkerSettings(state_dir=state_dir, device="cpu")
        self.store = ArtefactStore(self.settings.store_dir)
        self.transfer_sets = TransferSetStore(
            self.settings.transfer_sets_place, self.settings.transfer_sets_cache
        )
        rng = np.random.default_rng(1)
        self.images = rng.integers(0, 256, (ROWS, 28, 28, 1), dtype=np.uint8)
        few = Split(self.images[:10], LABELS[:10])
        splits = {"train": Split(self.images, labels), "validation": few, "test": few}
        self.manifest = self.store.datasets.put("noise", splits, classes=CLASSES, source="a test")
        self.teacher = publish_teacher(self.store, "big")
        self.dataset = "noise"
        self.client = LinearTeacher()
        self.sent: list[ChildMessage] = []

    @property
    def notes(self) -> list[str]:
        """All that jobs noted in words."""
        return [message.note for message in self.sent if message.note is not None]

    def context(self, job_id: str, order: DistillationSpec | None = None) -> JobContext:
        """Return what an attempt at a job is given."""
        order = order or DistillationSpec(name="s", teacher="big", dataset="noise")
        return JobContext(
            ChildOrder(job_id=job_id, epoch=1, attempts=1, spec=order),
            self.settings,
            self.store,
            self.sent.append,
        )

    def build(
        self, job_id: str, client: Any = None, asking: Asking | None = None, **spec: object
    ) -> BuiltTransferSet:
        """Build a transfer set in a job of this id; another client than the stack's own may be given."""
        order = DistillationSpec(
            name="s",
            teacher="big",
            dataset=self.dataset,
            transfer_set=TransferSetSpec.model_validate(spec),
            asking=asking or Asking(),
        )
        asked: TeacherClient = client or self.client
        manifest = self.store.datasets.get(self.dataset)
        return build_transfer_set(self.context(job_id, order), order, manifest, self.teacher, asked)

    def stored(self, built: BuiltTransferSet) -> TransferSet:
        """Return what is stored."""
        return self.transfer_sets.open(built.digest)

    def whole(self) -> Examples:
        """Return the training and validation split."""
        return Examples(
            images=torch.from_numpy(self.images),
            labels=torch.from_numpy(LABELS),
            validation_images=torch.from_numpy(self.images[:10]),
            validation_labels=torch.from_numpy(LABELS[:10]),
        )

    def examples(self, built: BuiltTransferSet) -> Examples:
        """Return what a student would learn from."""
        return taught_examples(self.whole(), self.stored(built), temperature=4.0)

    def shard(self, built: BuiltTransferSet, number: int = 0) -> Path:
        """Return where a shard lies."""
        return self.settings.store_dir / "transfer_sets" / built.digest / f"shard-{number:05d}.safetensors"
