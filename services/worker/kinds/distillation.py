"""A job of kind `distillation`: a student, its untaught twin, and the verdict between them.

Stages: check, transfer_set, train, evaluate, export, report. The student appears in the store in the
last one; promoting it is the user's decision.
"""

import statistics
import time
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, JsonValue

from services.worker.stages import outcomes
from services.worker.stages.asking import ask_all, teacher_parameters
from services.worker.stages.bundle import export_student, publish_student
from services.worker.stages.check import check_distillation_order
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.training import (
    cost_of,
    held_out,
    labelled_examples,
    preprocessing_of,
    train_nets,
)
from services.worker.stages.transfer_set import build_transfer_set, taught_examples
from shared.adapters.teacher_client import TeacherClient
from shared.contracts.datasets import DatasetManifest
from shared.contracts.evaluation import Comparison, Evaluation
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import DistillationReport
from shared.contracts.specs import DistillationSpec
from shared.contracts.teachers import TeacherDescription
from shared.distillation.cohort import HARD_LABELS, Net, TrainedNet
from shared.distillation.evaluation import evaluate
from shared.distillation.inference import net_logits
from shared.distillation.reports.files import report_files, write_files
from shared.distillation.verdict import compare
from shared.models.network import Network

_TEACHER_TIMINGS = 20


class Outcome(BaseModel):
    """What the evaluate stage found out on the test split, whose labels are read here and nowhere else."""

    served_seed: int
    teacher: Evaluation
    taught: Evaluation
    untaught: Evaluation
    agreement: float
    comparison: Comparison
    teacher_rows: int
    teacher_latency_ms: float


def distil(context: JobContext, spec: DistillationSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    manifest, teacher = check_distillation_order(context, spec)
    preprocessing = preprocessing_of(manifest)
    with TeacherClient(context.settings.teacher_url) as client:
        transfer_set = build_transfer_set(context, spec, manifest, teacher, client)
        train_inputs: dict[str, JsonValue] = {
            "dataset": manifest.digest,
            "transfer_set": transfer_set.digest,
            "network": spec.student.network.model_dump(mode="json"),
            "objective": spec.objective.model_dump(mode="json"),
            "budget": spec.budget.model_dump(mode="json"),
            "seeds": list(spec.seeds),
            "preprocessing": preprocessing.model_dump(mode="json"),
        }
        trained_at = train_nets(
            context,
            train_inputs,
            architecture=spec.student.network,
            nets=[Net("taught", seed, spec.objective) for seed in spec.seeds]
            + [Net("untaught", seed, HARD_LABELS) for seed in spec.seeds],
            examples=taught_examples(
                labelled_examples(context, spec.dataset),
                transfer_set.path,
                temperature=spec.objective.temperature,
            ),
            manifest=manifest,
            preprocessing=preprocessing,
            budget=spec.budget,
        )
        nets = outcomes.load_nets(trained_at)
        evaluated_at = context.once(
            Stage.EVALUATE,
            {"train": trained_at.name, "teacher": teacher.digest},
            lambda directory: outcomes.save(
                directory / "outcome.json", _evaluate(context, spec, manifest, teacher, client, nets)
            ),
        )
    outcome = outcomes.load(evaluated_at / "outcome.json", Outcome)
    served = next(net for net in nets if (net.arm, net.seed) == ("taught", outcome.served_seed))
    exported_at = export_student(context, spec, manifest, preprocessing, served, trained_at)

    context.progress(Stage.REPORT, 0, 1, "files")
    version = f"{spec.name}-{context.job_id.removeprefix('j-')}"
    report = DistillationReport(
        job_id=context.job_id,
        created_at=datetime.now(UTC),
        spec=spec,
        dataset_digest=manifest.digest,
        teacher_digest=teacher.digest,
        transfer_set_digest=transfer_set.digest,
        student_version=version,
        teacher_parameters=teacher_parameters(context, teacher),
        student_parameters=Network(spec.student.network, manifest.input, len(manifest.classes)).parameters,
        teacher=outcome.teacher,
        taught=outcome.taught,
        untaught=outcome.untaught,
        agreement=outcome.agreement,
        comparison=outcome.comparison,
        latency=exported_at.outcome.latency,
        teacher_latency_ms=outcome.teacher_latency_ms,
        curves=tuple(net.curve for net in nets),
        cost=cost_of(
            context,
            {
                Stage.TRANSFER_SET: transfer_set.seconds,
                Stage.TRAIN: seconds_of(trained_at),
                Stage.EVALUATE: seconds_of(evaluated_at),
                Stage.EXPORT: seconds_of(exported_at.path),
            },
            teacher_rows=transfer_set.teacher_rows + outcome.teacher_rows,
        ),
    )
    files = report_files(report)
    publish_student(context, report, files, manifest, preprocessing, exported_at)
    write_files(context.files.directory, files)
    context.progress(Stage.REPORT, 1, 1, "files")
    return JobResult(
        teacher=spec.teacher,
        teacher_digest=teacher.digest,
        student=version,
        verdict=outcome.comparison.verdict.value,
    )


def _evaluate(
    context: JobContext,
    spec: DistillationSpec,
    manifest: DatasetManifest,
    teacher: TeacherDescription,
    client: TeacherClient,
    nets: list[TrainedNet],
) -> Outcome:
    steps = len(nets) + 1
    asked_before = client.rows_asked
    context.progress(Stage.EVALUATE, 0, steps, "nets")
    test = context.store.datasets.load(spec.dataset, "test")
    images, labels = held_out(context, spec.dataset)
    teacher_logits = torch.from_numpy(ask_all(context, client, teacher, test.images))
    teacher_classes = teacher_logits.argmax(-1)
    preprocessing = preprocessing_of(manifest)
    network = Network(spec.student.network, manifest.input, len(manifest.classes))
    logits: dict[tuple[str, int], torch.Tensor] = {}
    for done, net in enumerate(nets, start=1):
        context.progress(Stage.EVALUATE, done, steps, "nets")
        logits[net.arm, net.seed] = net_logits(network, net.tensors, images, preprocessing)

    def correct(arm: str) -> NDArray[np.bool_]:
        right = [logits[arm, seed].argmax(-1) == labels for seed in spec.seeds]
        return np.asarray(torch.stack(right).numpy())

    agreements = [
        float((logits["taught", seed].argmax(-1) == teacher_classes).float().mean()) for seed in spec.seeds
    ]
    # Validation decides which seed is served; the first of equals.
    taught = [net for net in nets if net.arm == "taught"]
    served = max(taught, key=lambda net: net.validation_accuracy or 0.0).seed
    comparison = compare(correct("taught"), correct("untaught"), seeds=spec.seeds, agreements=agreements)
    context.progress(Stage.EVALUATE, steps, steps, "nets", {"gain": comparison.gain})
    return Outcome(
        served_seed=served,
        teacher=evaluate(teacher_logits, labels, manifest.classes),
        taught=evaluate(logits["taught", served], labels, manifest.classes),
        untaught=evaluate(logits["untaught", served], labels, manifest.classes),
        agreement=agreements[spec.seeds.index(served)],
        comparison=comparison,
        teacher_rows=client.rows_asked - asked_before,
        teacher_latency_ms=_teacher_latency_ms(client, teacher, test.images[:1]),
    )


def _teacher_latency_ms(
    client: TeacherClient, teacher: TeacherDescription, image: NDArray[np.uint8]
) -> float:
    """Return the median time of one image over HTTP, in milliseconds."""
    timings = []
    for _ in range(_TEACHER_TIMINGS):
        began = time.perf_counter()
        list(client.soft_targets(teacher.name, [image], temperature=1.0, expected_digest=teacher.digest))
        timings.append((time.perf_counter() - began) * 1000)
    return statistics.median(timings)
