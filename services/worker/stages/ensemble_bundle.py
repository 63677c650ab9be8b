"""The export stage of a generalist with specialists, and the student's bundle that it becomes."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from pydantic import BaseModel
from torch import Tensor

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext
from services.worker.stages.owning import own_student
from shared.artefacts.files import sha256_file
from shared.artefacts.tensors import write_tensors
from shared.contracts.jobs import Stage
from shared.contracts.specialists import GENERALIST, specialist_name
from shared.contracts.students import SAMPLES, BundleFile, Latency, StudentCard
from shared.contracts.teachers import TeacherDescription
from shared.distillation.export import export_onnx, parity
from shared.models.checkpoints import load_into, to_bytes
from shared.models.network import Network
from shared.models.specialist_ensemble import SpecialistEnsemble
from shared.serving.ensemble import EnsembleGraph
from shared.serving.graph import Graph

WEIGHTS = "model.safetensors"
_PARITY_IMAGES = 512
_SAMPLES = 32
_CLEAR = 0.1
"""By how much the generalist's logits must differ where it is decided who is asked, for an image to be a
sample: rounding must not change who answers it."""
_BATCHES = (1, 32)
_CALLS = 200
_OTHERS = "(all others)"
"""What the metadata of a specialist's graph call its dustbin."""


class EnsembleExport(BaseModel):
    """What the export stage measured."""

    largest_difference: float
    latency: tuple[Latency, ...]
    generalist_latency: tuple[Latency, ...]
    parameters: int
    generalist_parameters: int


def write_ensemble(
    context: JobContext,
    directory: Path,
    description: TeacherDescription,
    tensors: Mapping[str, Tensor],
    images: UInt8[np.ndarray, "rows height width channels"],
) -> None:
    """Write the files of an ensemble, and check that the graphs answer as the nets do on held-out images.

    Args:
        context: of the job.
        directory: where to.
        description: of the ensemble as a teacher.
        tensors: its nets', named and shaped as the teacher's are.
        images: held-out ones, for parity, samples and latency.

    Raises:
        ParityFailed: a graph does not answer as its net does.
    """
    combination = description.nets.specialists
    assert combination is not None
    parts = combination.specialists
    steps = len(parts) + 3
    context.progress(Stage.EXPORT, 0, steps, "nets")
    answers = {GENERALIST: (description.classes, len(description.classes))}
    for number, part in enumerate(parts):
        named = (*part.classes, _OTHERS) if part.dustbin else description.classes
        answers[specialist_name(number)] = (named, part.answers(len(description.classes)))
    largest, counts = 0.0, {}
    checked = outcomes.tensor(images[:_PARITY_IMAGES])
    for done, (name, (named, count)) in enumerate(answers.items(), start=1):
        network = Network(description.nets.architecture, description.preprocessing.seen, count)
        own = {
            key.removeprefix(f"{name}/"): tensor.squeeze(0)
            for key, tensor in tensors.items()
            if key.startswith(f"{name}/")
        }
        module = load_into(network.module(), own)
        onnx = directory / f"{name}.onnx"
        export_onnx(module, description.preprocessing, named, onnx)
        largest = max(largest, parity(onnx, module, description.preprocessing, checked))
        counts[name] = network.parameters
        context.progress(Stage.EXPORT, done, steps, "nets")
    (directory / WEIGHTS).write_bytes(to_bytes(tensors))
    _write_samples(directory, description, tensors, images)
    context.progress(Stage.EXPORT, steps - 1, steps, "nets")
    generalist, *specialists = (
        Graph(description.name, name, (directory / f"{name}.onnx").read_bytes(), threads=1)
        for name in answers
    )
    ensemble = EnsembleGraph(generalist, specialists, combination, description.classes)
    export = EnsembleExport(
        largest_difference=largest,
        latency=_latency(ensemble.probabilities, images),
        generalist_latency=_latency(generalist.probabilities, images),
        parameters=sum(counts.values()),
        generalist_parameters=counts[GENERALIST],
    )
    outcomes.save(directory / "export.json", export)
    context.progress(Stage.EXPORT, steps, steps, "nets")


def publish_ensemble(
    context: JobContext,
    version: str,
    exported_at: Path,
    report_files: Mapping[str, bytes],
    card: Callable[[dict[str, BundleFile]], StudentCard],
) -> None:
    """Put the ensemble into the store as a student: its files, its report, the card with their digests."""

    def build_bundle(directory: Path) -> None:
        for path in sorted(exported_at.iterdir()):
            if path.suffix in (".onnx", ".safetensors"):
                shutil.copyfile(path, directory / path.name)
        for name, content in report_files.items():
            (directory / name).write_bytes(content)
        files = {
            path.name: BundleFile(sha256=sha256_file(path), size_bytes=path.stat().st_size)
            for path in sorted(directory.iterdir())
        }
        outcomes.save(directory / "card.json", card(files))

    own_student(context, version)
    context.store.students.publish(version, build_bundle)


def _write_samples(
    directory: Path,
    description: TeacherDescription,
    tensors: Mapping[str, Tensor],
    images: UInt8[np.ndarray, "rows height width channels"],
) -> None:
    """Write images and the nets' answers to them, but for those where it is a close call who is asked.

    Where it always is, there are no samples.
    """
    combination = description.nets.specialists
    assert combination is not None
    ensemble = SpecialistEnsemble(description, tensors)
    some = torch.from_numpy(np.array(images[:_PARITY_IMAGES]))
    logits = ensemble.generalist_logits(some)
    ranked = logits.sort(dim=-1, descending=True).values
    last = min(combination.top_n, ranked.shape[1] - 1)
    clear = (ranked[:, last - 1] - ranked[:, last] > _CLEAR).nonzero().squeeze(1)[:_SAMPLES]
    if len(clear):
        answers = ensemble.softened_logits(some[clear], temperature=1.0).softmax(-1)
        write_tensors(directory / SAMPLES, {"images": some[clear].numpy(), "probabilities": answers.numpy()})


def _latency(
    answer: Callable[[np.ndarray], object], images: UInt8[np.ndarray, "rows height width channels"]
) -> tuple[Latency, ...]:
    """Return how long a call with real images takes: with specialists that depends on what they show."""
    return tuple(_latency_of(answer, batch, _batches(images, batch)) for batch in _BATCHES)


def _batches(
    images: UInt8[np.ndarray, "rows height width channels"], batch: int
) -> list[UInt8[np.ndarray, "batch height width channels"]]:
    starts = range(0, max(len(images) - batch, 0) + 1, batch)
    # Of a small dataset the same images come again.
    return [
        np.array(np.resize(images[start : start + batch], (batch, *images.shape[1:]))) for start in starts
    ]


def _latency_of(answer: Callable[[np.ndarray], object], batch: int, images: Sequence[np.ndarray]) -> Latency:
    times_ms = []
    for call in range(_CALLS + _CALLS // 10):  # the first calls allocate
        began = time.perf_counter()
        answer(images[call % len(images)])
        times_ms.append((time.perf_counter() - began) * 1000)
    measured = np.array(times_ms[_CALLS // 10 :])
    return Latency(
        batch=batch,
        p50_ms=round(float(np.percentile(measured, 50)), 4),
        p99_ms=round(float(np.percentile(measured, 99)), 4),
        calls=_CALLS,
        threads=1,
    )
