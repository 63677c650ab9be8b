"""Jobs of the worker run in this process, on small made-up shapes and a real teacher service."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.worker.kinds.distillation import distil
from services.worker.kinds.teacher import train_teacher
from services.worker.protocol import ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext
from shared.artefacts.datasets import Split
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.reports import DistillationReport, JobReport, TeacherReport
from shared.contracts.specs import DistillationSpec, JobSpec, TeacherSpec
from shared.contracts.training import Budget, Objective, Regularisation, StudentSpec

SHAPES = ("circle", "cross", "square", "star")
QUICK = Budget(epochs=8, batch_size=32, learning_rate=1e-2)
ReportT = TypeVar("ReportT", bound=JobReport)


def shapes(rows: int, seed: int, noise: float = 60.0) -> Split:
    """Return 6 x 5 images of four shapes under noise, equally many of each, with their labels."""
    generator = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).integers(60, 196, (len(SHAPES), 6, 5, 1))
    labels = np.arange(rows, dtype=np.int64) % len(SHAPES)
    pixels = patterns[labels] + generator.normal(0, noise, (rows, 6, 5, 1))
    images: NDArray[np.uint8] = pixels.clip(0, 255).astype(np.uint8)
    return Split(images, labels)


@dataclass
class Bench:
    """A state directory in which jobs are run one after another."""

    state_dir: Path
    teacher_url: str = "http://127.0.0.1:9"
    messages: list[ChildMessage] = field(default_factory=list)
    jobs: int = 0
    watch: Callable[[JobContext], None] = lambda context: None
    """Told each job's context before it runs."""

    def __post_init__(self) -> None:
        self.store = ArtefactStore(WorkerSettings(state_dir=self.state_dir).store_dir)

    def add_shapes(self, name: str = "shapes") -> None:
        """Store the dataset: 400 images to train on, 200 to validate and 400 to test on."""
        splits = {"train": shapes(400, 1), "validation": shapes(200, 2), "test": shapes(400, 3)}
        self.store.datasets.put(name, splits, classes=SHAPES, source="made up")

    def context(self, spec: JobSpec) -> JobContext:
        """Return the context of a new job."""
        self.jobs += 1
        order = ChildOrder(job_id=f"j-{self.jobs}", epoch=1, attempts=1, spec=spec)
        settings = WorkerSettings(
            state_dir=self.state_dir, teacher_url=self.teacher_url, checkpoint_s=60, device="cpu"
        )
        context = JobContext(order, settings, self.store, self.messages.append)
        self.watch(context)
        return context

    def teach(self, **changes: Any) -> TeacherReport:
        """Train a teacher of shapes."""
        spec = TeacherSpec(
            name="owl", dataset="shapes", architecture=Mlp(hidden_units=(32,)), budget=QUICK,
            regularisation=Regularisation(),
        )  # fmt: skip
        return self.run(train_teacher, spec.model_copy(update=changes), TeacherReport)

    def distil(self, **changes: Any) -> DistillationReport:
        """Distil a student of the teacher."""
        return self.run(distil, student_of(**changes), DistillationReport)

    def run(self, runner: Callable[[JobContext, Any], Any], spec: JobSpec, report: type[ReportT]) -> ReportT:
        """Run a job and return its report as it lies in the store."""
        context = self.context(spec)
        runner(context, spec)
        return report.model_validate_json(context.files.report_json.read_bytes())

    @property
    def notes(self) -> list[str]:
        """All that the jobs noted in words."""
        return [message.note for message in self.messages if message.note is not None]


def student_of(teacher: str = "owl", **changes: Any) -> DistillationSpec:
    """Return a small student's order."""
    spec = DistillationSpec(
        name="wren",
        teacher=teacher,
        dataset="shapes",
        student=StudentSpec(network=Mlp(hidden_units=(8,))),
        objective=Objective(temperature=2.0, soft_weight=0.5, hard_weight=0.5),
        budget=QUICK,
        seeds=(0, 1),
    )
    return spec.model_copy(update=changes)
