"""How jobs end whose nets have no teacher but themselves or each other: verdict, export, report, student."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from services.worker.stages import outcomes
from services.worker.stages.bundle import export_net, publish_bundle
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.evaluation import Twins, evaluate_twins, logits_of
from services.worker.stages.training import cost_of, held_out, preprocessing_of
from shared.contracts.architectures import Architecture
from shared.contracts.base import Name
from shared.contracts.datasets import DatasetManifest
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import PeerReport
from shared.contracts.students import BundleFile, StudentCard
from shared.contracts.training import Objective, Seed
from shared.distillation.cohort import TrainedNet
from shared.distillation.reports.files import report_files, write_files
from shared.models.network import Network

TAUGHT = "taught"
UNTAUGHT = "untaught"


class PeerSpec(Protocol):
    """The specs of the kinds that end so."""

    @property
    def name(self) -> Name:
        """What the student is called."""

    @property
    def dataset(self) -> Name:
        """On what its nets are trained."""

    @property
    def network(self) -> Architecture:
        """Of every net."""

    @property
    def seeds(self) -> tuple[Seed, ...]:
        """A taught and an untaught net each."""


def conclude(
    context: JobContext,
    spec: PeerSpec,
    manifest: DatasetManifest,
    nets: Sequence[TrainedNet],
    report_type: Callable[..., PeerReport],
    *,
    trained: Sequence[str],
    objective: Objective,
    seconds: Mapping[Stage, float],
    more: Mapping[str, Any] | None = None,
) -> JobResult:
    """Evaluate the nets, export the taught one that validates best, write the report, publish the student.

    Args:
        context: of the job.
        spec: what was asked for.
        manifest: of the dataset.
        nets: all that were trained; of each seed one of the arm `taught` and one `untaught`.
        report_type: of the kind.
        trained: names of the stages' outputs that the nets are from.
        objective: of the taught nets, for the card.
        seconds: of the stages before.
        more: fields of the report that only this kind has.
    """
    preprocessing = preprocessing_of(manifest)
    network = Network(spec.network, manifest.input, len(manifest.classes))
    inputs: dict[str, JsonValue] = {"trained": list(trained)}

    def evaluate_all(aside: Path) -> None:
        context.progress(Stage.EVALUATE, 0, len(nets), "nets")
        images, labels = held_out(context, spec.dataset)

        def on_net(done: int) -> None:
            context.progress(Stage.EVALUATE, done, len(nets), "nets")

        logits = logits_of(network, nets, images, preprocessing, on_net)
        twins = evaluate_twins(nets, logits, labels, manifest.classes, spec.seeds, None)
        outcomes.save(aside / "twins.json", twins)

    evaluated_at = context.once(Stage.EVALUATE, inputs, evaluate_all)
    twins = outcomes.load(evaluated_at / "twins.json", Twins)
    served = next(net for net in nets if (net.arm, net.seed) == (TAUGHT, twins.served_seed))
    exported = export_net(
        context,
        {**inputs, "seed": served.seed},
        spec.network,
        spec.dataset,
        manifest,
        preprocessing,
        served,
    )

    context.progress(Stage.REPORT, 0, 1, "files")
    version = f"{spec.name}-{context.job_id.removeprefix('j-')}"
    report = report_type(
        job_id=context.job_id,
        created_at=datetime.now(UTC),
        spec=spec,
        dataset_digest=manifest.digest,
        student_version=version,
        parameters=network.parameters,
        onnx_bytes=exported.served.stat().st_size,
        seed=served.seed,
        taught=twins.taught,
        untaught=twins.untaught,
        comparison=twins.comparison,
        nets=twins.nets,
        latency=exported.outcome.latency,
        graphs=exported.outcome.graphs,
        curves=tuple(net.curve for net in nets),
        cost=cost_of(
            context,
            {
                **seconds,
                Stage.EVALUATE: seconds_of(evaluated_at),
                Stage.EXPORT: seconds_of(exported.path),
            },
            teacher_rows=0,
        ),
        **(more or {}),
    )
    files = report_files(report)

    def card(listed: dict[str, BundleFile]) -> StudentCard:
        return StudentCard(
            version=version,
            name=spec.name,
            job_id=context.job_id,
            created_at=datetime.now(UTC),
            classes=manifest.classes,
            preprocessing=preprocessing,
            architecture=spec.network,
            parameters=network.parameters,
            dataset=spec.dataset,
            dataset_digest=manifest.digest,
            objective=objective,
            seed=served.seed,
            evaluation=twins.taught,
            comparison=twins.comparison,
            latency=exported.outcome.latency,
            onnx_largest_difference=exported.outcome.largest_difference,
            files=listed,
        )

    publish_bundle(context, version, files, exported, card)
    write_files(context.files.directory, files)
    context.progress(Stage.REPORT, 1, 1, "files")
    return JobResult(student=version, verdict=twins.comparison.verdict.value)
