"""The export stage, and the bundle that it ends in: what the gateway serves and what the card says of it."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, JsonValue

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext
from services.worker.stages.owning import own_student
from shared.artefacts.files import sha256_file
from shared.contracts.architectures import Architecture
from shared.contracts.datasets import DatasetManifest
from shared.contracts.images import Preprocessing
from shared.contracts.jobs import Stage
from shared.contracts.reports import DistillationReport
from shared.contracts.served_graphs import REFERENCE, GraphChoice
from shared.contracts.specs import DistillationSpec
from shared.contracts.students import SAMPLES, BundleFile, Latency, StudentCard
from shared.distillation.cohort import TrainedNet
from shared.distillation.export import choose_served_graph, export_onnx, measure_latency, parity
from shared.models.checkpoints import load_into, to_bytes
from shared.models.network import Network

_PARITY_IMAGES = 512


class ExportOutcome(BaseModel):
    """What the export stage measured of the exported student."""

    seed: int
    largest_difference: float
    latency: tuple[Latency, ...]
    """Of the graph that is served."""
    graphs: GraphChoice | None = None
    """None where it was exported before there was a choice."""


@dataclass(frozen=True)
class Exported:
    """The output: a folder with `model.onnx`, the graph that is served, samples and `model.safetensors`."""

    path: Path
    outcome: ExportOutcome

    @property
    def served(self) -> Path:
        """The graph that gateways load."""
        return self.path / (self.outcome.graphs.file if self.outcome.graphs is not None else REFERENCE)


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
    """Write a net as safetensors and ONNX, check that both answer alike, and choose the graph that is served.

    Args:
        context: of the job.
        inputs: all that the outcome follows from; names the stage's output.
        architecture: of the net.
        dataset: whose validation images all graphs are asked about.
        manifest: of the dataset.
        preprocessing: from pixels to what the net sees; becomes part of the ONNX file.
        served: the net.

    Raises:
        ParityFailed: they do not.
    """

    def build_files(directory: Path) -> None:
        context.progress(Stage.EXPORT, 0, 4, "steps")
        network = Network(architecture, manifest.input, len(manifest.classes))
        module = load_into(network.module(), served.tensors)
        (directory / "model.safetensors").write_bytes(to_bytes(served.tensors))
        onnx = directory / REFERENCE
        export_onnx(module, preprocessing, manifest.classes, onnx)
        context.progress(Stage.EXPORT, 1, 4, "steps")
        split = context.store.datasets.load(dataset, "validation")
        difference = parity(onnx, module, preprocessing, outcomes.tensor(split.images[:_PARITY_IMAGES]))
        context.progress(Stage.EXPORT, 2, 4, "steps")
        graphs = choose_served_graph(
            directory, module, preprocessing, manifest.classes, split.images, split.labels
        )
        context.progress(Stage.EXPORT, 3, 4, "steps")
        outcome = ExportOutcome(
            seed=served.seed,
            largest_difference=difference,
            latency=measure_latency(directory / graphs.file, manifest.input),
            graphs=graphs,
        )
        outcomes.save(directory / "export.json", outcome)
        context.progress(Stage.EXPORT, 4, 4, "steps")

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
            cascade=report.cascade,
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
    """Put a student into the store: its files, its report, and the card that is made of their digests.

    Which graph is served, and why, is added to the card here.
    """

    def build_bundle(directory: Path) -> None:
        for name in sorted({REFERENCE, exported.served.name, "model.safetensors", SAMPLES}):
            if name != SAMPLES or (exported.path / SAMPLES).exists():  # none of an export of an older version
                shutil.copyfile(exported.path / name, directory / name)
        for name, content in report_files.items():
            (directory / name).write_bytes(content)
        files = {
            path.name: BundleFile(sha256=sha256_file(path), size_bytes=path.stat().st_size)
            for path in sorted(directory.iterdir())
        }
        outcomes.save(
            directory / "card.json", card(files).model_copy(update={"graphs": exported.outcome.graphs})
        )

    own_student(context, version)
    context.store.students.publish(version, build_bundle)
