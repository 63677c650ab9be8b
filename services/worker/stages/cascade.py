"""What the served graph and the teacher are worth together, measured once the student is exported.

By the graph that gateways load: an 8-bit graph is sure of other images than the net that it was made of, and
a threshold is compared with what it says.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from services.worker.stages import outcomes
from services.worker.stages.bundle import Exported
from services.worker.stages.context import JobContext
from shared.artefacts.tensors import read_tensors, write_tensors
from shared.contracts.cascade import CascadeCurve
from shared.contracts.jobs import Stage
from shared.distillation.cascade import cascade_curve
from shared.serving.graph import Graph

_ROWS = 64
_TEACHER = "teacher.safetensors"


def keep_teacher(directory: Path, logits: Float32[np.ndarray, "rows classes"], labels: np.ndarray) -> None:
    """Write down which test images the teacher is right on, into the output of the stage that asked it."""
    write_tensors(directory / _TEACHER, {"right": (logits.argmax(1) == labels).astype(np.uint8)})


def measure_cascade(context: JobContext, dataset: str, exported: Exported, asked_at: Path) -> Path:
    """Return the output of the stage that finds the curve; `load_curve` reads it.

    Args:
        context: of the job.
        dataset: thresholds are chosen on its validation images and reported on its test images.
        exported: the student.
        asked_at: a stage's output in which `keep_teacher` wrote.
    """

    def build(directory: Path) -> None:
        served = exported.served
        graph = Graph(context.job_id, served.name, served.read_bytes(), threads=1)
        validation = context.store.datasets.load(dataset, "validation")
        test = context.store.datasets.load(dataset, "test")
        assert test.labels is not None, "checked before"
        total = len(validation.images) + len(test.images)
        on_validation = _probabilities(context, graph, validation.images, 0, total)
        on_test = _probabilities(context, graph, test.images, len(validation.images), total)
        kept, _ = read_tensors(asked_at / _TEACHER)
        curve = cascade_curve(on_validation, on_test, np.array(test.labels), kept["right"].astype(np.bool_))
        outcomes.save(directory / "cascade.json", curve)

    return context.once(Stage.EXPORT, {"exported": exported.path.name, "asked": asked_at.name}, build)


def load_curve(measured_at: Path) -> CascadeCurve:
    """Return what `measure_cascade` found."""
    return outcomes.load(measured_at / "cascade.json", CascadeCurve)


def _probabilities(
    context: JobContext,
    graph: Graph,
    images: UInt8[np.ndarray, "rows height width channels"],
    done: int,
    total: int,
) -> Float32[np.ndarray, "rows classes"]:
    parts = []
    for first in range(0, len(images), _ROWS):
        context.progress(Stage.EXPORT, done + first, total, "images")
        parts.append(graph.probabilities(np.array(images[first : first + _ROWS])))
    return np.concatenate(parts)
