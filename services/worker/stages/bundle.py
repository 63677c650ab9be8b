"""The export stage, and the bundle that it ends in: what the gateway serves and what the card says of it."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, JsonValue

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext
from shared.artefacts.files import sha256_file
from shared.contracts.architectures import Architecture
from shared.contracts.datasets import DatasetManifest
from shared.contracts.images import Preprocessing
from shared.contracts.jobs import Stage
from shared.contracts.reports import DistillationReport
from shared.contracts.specs import DistillationSpec
from shared.contracts.students import BundleFile, Latency, StudentCard
from shared.distillation.cohort import TrainedNet
from shared.distillation.export import export_onnx, measure_latency, parity
from shared.models.checkpoints import load_into, to_bytes
from shared.models.network import Network

_PARITY_IMAGES = 512


class ExportOutcome(BaseModel):
    """What the export stage measured of the exported student."""

    seed: int
    largest_difference: float
    latency: tuple[Latency, ...]


@dataclass(frozen=True)
class Exported:
    """The export stage's output: a folder with `model.onnx` and `model.safetensors`."""

    path: Path
    outcome: ExportOutcome


def export_student(
    context: JobContext,
    spec: DistillationSpec,
    manifest: DatasetManifest,
    preprocessing: Preprocessing,
    served: TrainedNet,
    trained_at: Path,
) -> Exported:
    """Export the student of a distillation; see `export_net`."""
    inputs: dict[str, JsonValue] = {"train": trained_at.name, "seed": served.seed}
    return export_net(context, inputs, spec.student.network, spec.dataset, manifest, preprocessing, served)


def export_net(
    context: JobContext,
    inputs: dict[str, JsonValue],
    architecture: Architecture,
    dataset: str,
    manifest: DatasetManifest,
    preprocessing: Preprocessing,
    served: TrainedNet,
) -> Exported:
    """Write a net as safetensors and ONNX, and check that both answer alike on held-out images.

    Args:
        context: of the job.
        inputs: all that the outcome follows from; names the stage's output.
        architecture: of the net.
        dataset: whose validation images both are asked about.
        manifest: of the dataset.
        preprocessing: from pixels to what the net sees; becomes part of the ONNX file.
        served: the net.

    Raises:
        ParityFailed: they do not.
    """

    def build_files(directory: Path) -> None:
        context.progress(Stage.EXPORT, 0, 3, "steps")
        network = Network(architecture, manifest.input, len(manifest.classes))
        module = load_into(network.module(), served.tensors)
        (directory / "model.safetensors").write_bytes(to_bytes(served.tensors))
        onnx = directory / "model.onnx"
        export_onnx(module, preprocessing, manifest.classes, onnx)
        context.progress(Stage.EXPORT, 1, 3, "steps")
        images = context.store.datasets.load(dataset, "validation").images[:_PARITY_IMAGES]
        difference = parity(onnx, module, preprocessing, outcomes.tensor(images))
        context.progress(Stage.EXPORT, 2, 3, "steps")
        outcome = ExportOutcome(
            seed=served.seed,
            largest_difference=difference,
            latency=measure_latency(onnx, manifest.input),
        )
        outcomes.save(directory / "export.json", outcome)
        context.progress(Stage.EXPORT, 3, 3, "steps")

    path = context.once(Stage.EXPORT, inputs, build_files)
    return Exported(path, outcomes.load(path / "export.json", ExportOutcome))


def publish_student(
    context: JobContext,
    report: DistillationReport,
    report_files: Mapping[str, bytes],
    manifest: DatasetManifest,
    preprocessing: Preprocessing,
    exported: Exported,
) -> None:
    """Put the student into the store: its files, its report, and the card with their digests."""
    spec = report.spec

    def card(files: dict[str, BundleFile]) -> StudentCard:
        return StudentCard(
            version=report.student_version,
            name=spec.name,
            job_id=context.job_id,
            created_at=datetime.now(UTC),
            classes=manifest.classes,
            preprocessing=preprocessing,
            architecture=spec.student.network,
            parameters=report.student_parameters,
            teacher=spec.teacher,
            teacher_digest=report.teacher_digest,
            teacher_parameters=report.teacher_parameters,
            dataset=spec.dataset,
            dataset_digest=report.dataset_digest,
            transfer_set_digest=report.transfer_set_digest,
            objective=spec.objective,
            seed=exported.outcome.seed,
            evaluation=report.taught,
            comparison=report.comparison,
            latency=exported.outcome.latency,
            onnx_largest_difference=exported.outcome.largest_difference,
            files=files,
        )

    publish_bundle(context, report.student_version, report_files, exported, card)


def publish_bundle(
    context: JobContext,
    version: str,
    report_files: Mapping[str, bytes],
    exported: Exported,
    card: Callable[[dict[str, BundleFile]], StudentCard],
) -> None:
    """Put a student into the store: its files, its report, and the card that is made of their digests."""

    def build_bundle(directory: Path) -> None:
        for name in ("model.onnx", "model.safetensors"):
            shutil.copyfile(exported.path / name, directory / name)
        for name, content in report_files.items():
            (directory / name).write_bytes(content)
        files = {
            path.name: BundleFile(sha256=sha256_file(path), size_bytes=path.stat().st_size)
            for path in sorted(directory.iterdir())
        }
        outcomes.save(directory / "card.json", card(files))

    context.store.students.publish(version, build_bundle)
