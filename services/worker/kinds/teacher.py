"""A job of kind `teacher`: train a cumbersome model, or several for an ensemble, the normal way.

Stages: check, train, evaluate, export, report. The teacher becomes the one of its name in the export stage.
"""

from datetime import UTC, datetime
from pathlib import Path

import torch
from pydantic import BaseModel, JsonValue

from services.worker.stages import outcomes
from services.worker.stages.check import check_teacher_order
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.owning import owned_teacher
from services.worker.stages.training import (
    cost_of,
    held_out,
    labelled_examples,
    preprocessing_of,
    train_nets,
)
from shared.contracts.datasets import DatasetManifest
from shared.contracts.evaluation import Evaluation, NetFigures
from shared.contracts.images import Preprocessing
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import TeacherReport
from shared.contracts.specs import TeacherSpec
from shared.contracts.teachers import Nets, TeacherDescription
from shared.distillation.cohort import Net, TrainedNet
from shared.distillation.evaluation import evaluate, in_short
from shared.distillation.inference import net_logits
from shared.distillation.reports.files import report_files, write_files
from shared.models.checkpoints import stack, to_arrays
from shared.models.ensemble import merge_logits
from shared.models.network import Network


class _Members(BaseModel):
    members: tuple[NetFigures, ...]


def train_teacher(context: JobContext, spec: TeacherSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    manifest = check_teacher_order(context, spec)
    preprocessing = preprocessing_of(manifest)
    train_inputs: dict[str, JsonValue] = {
        "dataset": manifest.digest,
        "spec": spec.model_dump(mode="json", exclude={"name", "merge"}),
        "preprocessing": preprocessing.model_dump(mode="json"),
    }
    trained_at = train_nets(
        context,
        train_inputs,
        architecture=spec.architecture,
        nets=[Net(arm="teacher", seed=seed) for seed in spec.seeds],
        examples=labelled_examples(context, spec.dataset),
        manifest=manifest,
        preprocessing=preprocessing,
        budget=spec.budget,
        regularisation=spec.regularisation,
    )
    members = outcomes.load_nets(trained_at)
    evaluated_at = context.once(
        Stage.EVALUATE,
        {"train": trained_at.name, "merge": spec.merge},
        lambda directory: _evaluate(context, spec, manifest, preprocessing, members, directory),
    )
    evaluation = outcomes.load(evaluated_at / "evaluation.json", Evaluation)
    alone = outcomes.load(evaluated_at / "members.json", _Members).members
    context.progress(Stage.EXPORT, 0, 1, "files")
    teacher = _publish(context, spec, manifest, preprocessing, members, evaluation)
    context.progress(Stage.EXPORT, 1, 1, "files")

    context.progress(Stage.REPORT, 0, 1, "files")
    network = Network(spec.architecture, manifest.input, len(manifest.classes))
    report = TeacherReport(
        job_id=context.job_id,
        created_at=datetime.now(UTC),
        spec=spec,
        dataset_digest=manifest.digest,
        teacher_digest=teacher.digest,
        parameters=len(members) * network.parameters,
        evaluation=evaluation,
        members=alone,
        curves=tuple(member.curve for member in members),
        cost=cost_of(
            context,
            {Stage.TRAIN: seconds_of(trained_at), Stage.EVALUATE: seconds_of(evaluated_at)},
            teacher_rows=0,
        ),
    )
    write_files(context.files.directory, report_files(report))
    context.progress(Stage.REPORT, 1, 1, "files")
    return JobResult(teacher=spec.name, teacher_digest=teacher.digest)


def _evaluate(
    context: JobContext,
    spec: TeacherSpec,
    manifest: DatasetManifest,
    preprocessing: Preprocessing,
    members: list[TrainedNet],
    directory: Path,
) -> None:
    images, labels = held_out(context, spec.dataset)
    network = Network(spec.architecture, manifest.input, len(manifest.classes))
    logits = []
    for done, member in enumerate(members):
        context.progress(Stage.EVALUATE, done, len(members), "nets")
        logits.append(net_logits(network, member.tensors, images, preprocessing))
    merged = merge_logits(torch.stack(logits), temperature=1.0, merge=spec.merge)
    evaluation = evaluate(merged, labels, manifest.classes)
    outcomes.save(directory / "evaluation.json", evaluation)
    together = merged.argmax(-1)
    alone = tuple(
        in_short(
            evaluate(of, labels, manifest.classes),
            member.arm,
            member.seed,
            agreement=float((of.argmax(-1) == together).double().mean()),
            validation_accuracy=member.validation_accuracy,
        )
        for member, of in zip(members, logits, strict=True)
    )
    outcomes.save(directory / "members.json", _Members(members=alone))
    context.progress(Stage.EVALUATE, len(members), len(members), "nets", {"accuracy": evaluation.accuracy})


def _publish(
    context: JobContext,
    spec: TeacherSpec,
    manifest: DatasetManifest,
    preprocessing: Preprocessing,
    members: list[TrainedNet],
    evaluation: Evaluation,
) -> TeacherDescription:
    with owned_teacher(context, spec.name):
        teacher = context.store.teachers.publish_nets(
            name=spec.name,
            tensors=to_arrays(stack([member.tensors for member in members])),
            model=Nets(architecture=spec.architecture, members=len(members), merge=spec.merge),
            classes=manifest.classes,
            preprocessing=preprocessing,
            precision=spec.precision,
            test_accuracy=evaluation.accuracy,
            job_id=context.job_id,
            created_at=datetime.now(UTC),
        )
        context.need_lease()
        context.store.teachers.make_current(spec.name, teacher.digest)
    return teacher
