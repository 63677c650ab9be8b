"""A job of kind `distillation`: a student, its untaught twin, and the verdict between them.

Stages: check, transfer_set, train, evaluate, export, report. The student appears in the store in the
last one; promoting it is the user's decision.
"""

import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, JsonValue

from services.worker.stages import outcomes
from services.worker.stages.asking import ask_all, teacher_client, teacher_parameters
from services.worker.stages.bundle import Exported, export_student, publish_student
from services.worker.stages.cascade import keep_teacher, load_curve, measure_cascade
from services.worker.stages.check import check_order
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.evaluation import Twins, evaluate_twins, logits_of
from services.worker.stages.pair import CheckedPair, check_pair, warnings_after
from services.worker.stages.pinned import pinned_teacher
from services.worker.stages.repair import Repair, load_repair, repair_biases
from services.worker.stages.training import (
    cost_of,
    features_of_teacher,
    held_out,
    labelled_examples,
    preprocessing_of,
    train_nets,
)
from services.worker.stages.transfer_sets.examples import (
    live_examples,
    named_by_teacher,
    taught_examples,
)
from services.worker.stages.transfer_sets.live import LiveTransferSet
from services.worker.stages.transfer_sets.stage import (
    BuiltTransferSet,
    build_transfer_set,
    complete_transfer_set,
    plan_transfer_set,
)
from shared.adapters.teacher_client import TeacherClient
from shared.contracts.cascade import CascadeCurve
from shared.contracts.datasets import DatasetManifest
from shared.contracts.evaluation import Evaluation
from shared.contracts.images import Preprocessing
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import DistillationReport, RepairedNet, RepairReport, TrainingCurve
from shared.contracts.specs import DistillationSpec
from shared.contracts.teachers import TeacherDescription
from shared.distillation.cohort import HARD_LABELS, Net, TrainedNet
from shared.distillation.evaluation import evaluate
from shared.distillation.examples import Examples
from shared.distillation.hints import check_layers
from shared.distillation.reports.files import report_files, write_files
from shared.jobs.checks import check_distillation
from shared.models.network import Network

TWIN_OF_UNLABELLED = (
    "the training images have no labels: the untaught twin learned the class that the teacher names for "
    "each, so the verdict says what soft targets are worth beyond that"
)
_TEACHER_TIMINGS = 20


class Outcome(BaseModel):
    """What the evaluate stage found out on the test split, whose labels are read here and nowhere else."""

    teacher: Evaluation
    twins: Twins
    before_repair: Twins | None
    teacher_rows: int
    teacher_latency_ms: float


@dataclass(frozen=True)
class _Job:
    """What all stages of one job are told."""

    context: JobContext
    spec: DistillationSpec
    manifest: DatasetManifest
    teacher: TeacherDescription
    network: Network
    preprocessing: Preprocessing


def distil(context: JobContext, spec: DistillationSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    teacher = pinned_teacher(context, spec.teacher)
    manifest = check_order(context, spec.dataset, lambda view: check_distillation(spec, view, teacher))
    network = Network(spec.student.network, manifest.input, len(manifest.classes))
    if spec.objective.needs_features:
        check_layers(spec.objective, network, network_of(teacher))
    job = _Job(context, spec, manifest, teacher, network, preprocessing_of(manifest))
    with teacher_client(context) as client:
        pair = check_pair(context, spec, manifest, teacher, client)
        learned = _learn_live(job, client) if spec.asking.live else _learn(job, client)
        transfer_set, trained_at = learned.transfer_set, learned.trained_at
        nets_at = _repaired(job, trained_at)
        nets = outcomes.load_nets(nets_at)
        evaluated_at = context.once(
            Stage.EVALUATE,
            {"train": nets_at.name, "teacher": teacher.digest, "keeps": "teacher"},
            lambda directory: _evaluate(job, client, nets, trained_at, nets_at, directory),
        )
    outcome = outcomes.load(evaluated_at / "outcome.json", Outcome)
    served = next(net for net in nets if (net.arm, net.seed) == ("taught", outcome.twins.served_seed))
    exported = export_student(context, spec, manifest, job.preprocessing, served, nets_at)
    cascade_at = measure_cascade(context, spec.dataset, exported, evaluated_at)

    context.progress(Stage.REPORT, 0, 1, "files")
    report = _report(
        job,
        pair,
        learned,
        outcome,
        exported,
        curves=tuple(net.curve for net in nets),
        repair=load_repair(nets_at) if spec.bias_repair is not None else None,
        seconds={
            Stage.CHECK: pair.seconds,
            Stage.TRANSFER_SET: transfer_set.seconds,
            Stage.TRAIN: sum(seconds_of(path) for path in {trained_at, nets_at}),
            Stage.EVALUATE: seconds_of(evaluated_at),
            Stage.EXPORT: seconds_of(exported.path) + seconds_of(cascade_at),
        },
        cascade=load_curve(cascade_at),
    )
    files = report_files(report)
    publish_student(context, report, files, manifest, job.preprocessing, exported)
    write_files(context.files.directory, files)
    context.progress(Stage.REPORT, 1, 1, "files")
    return JobResult(
        teacher=spec.teacher,
        teacher_digest=teacher.digest,
        student=report.student_version,
        verdict=report.comparison.verdict.value,
    )


def network_of(teacher: TeacherDescription) -> Network:
    """Return the network of a teacher, or of each net of it."""
    return Network(teacher.nets.architecture, teacher.preprocessing.seen, len(teacher.classes))


# --- stages ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Learned:
    """The transfer set and what was trained on it."""

    transfer_set: BuiltTransferSet
    trained_at: Path
    waited_share: float | None = None
    """Of the time of training, what it waited for the teacher, where it was asked live."""


def _learn(job: _Job, client: TeacherClient) -> _Learned:
    """Build the transfer set, then train on it."""
    context, spec = job.context, job.spec
    built = build_transfer_set(context, spec, job.manifest, job.teacher, client)
    examples = taught_examples(
        labelled_examples(context, spec.dataset),
        context.transfer_sets.open(built.digest),
        temperature=spec.objective.temperature,
    )
    return _Learned(built, _train(job, built.digest, examples))


def _learn_live(job: _Job, client: TeacherClient) -> _Learned:
    """Train while the transfer set is built, then make it whole."""
    context, spec = job.context, job.spec
    planned = plan_transfer_set(
        context,
        spec.transfer_set,
        spec.dataset,
        job.manifest,
        job.teacher,
        client,
        temperature=spec.objective.temperature,
        asking=spec.asking,
    )
    with LiveTransferSet(planned.wanted, client) as live:
        examples = live_examples(labelled_examples(context, spec.dataset), planned.wanted, live)
        trained_at = _train(job, live.digest, examples)
    # What was asked meanwhile is told now: two stages at a time would be one too many to follow.
    context.progress(Stage.TRANSFER_SET, live.known_rows, planned.wanted.inputs.total_rows, "rows")
    built = complete_transfer_set(planned, client)
    return _Learned(built, trained_at, live.waited_s / seconds_of(trained_at))


def _train(job: _Job, transfer_set: str, examples: Examples) -> Path:
    """Train all nets on the examples of the transfer set of this digest."""
    context, spec = job.context, job.spec
    if examples.labels is None:
        examples = named_by_teacher(examples)
    inputs: dict[str, JsonValue] = {
        "dataset": job.manifest.digest,
        "transfer_set": transfer_set,
        "student": spec.student.model_dump(mode="json", exclude={"classes"}),
        "objective": spec.objective.model_dump(mode="json"),
        "budget": spec.budget.model_dump(mode="json"),
        "seeds": list(spec.seeds),
        "preprocessing": job.preprocessing.model_dump(mode="json"),
    }
    features = None
    if spec.objective.needs_features:
        features = features_of_teacher(context, job.teacher, precision=spec.budget.precision)
    return train_nets(
        context,
        inputs,
        architecture=spec.student.network,
        nets=[Net("taught", seed, spec.objective) for seed in spec.seeds]
        + [Net("untaught", seed, HARD_LABELS) for seed in spec.seeds],
        # The twin learns from the very same images and labels; where a label is missing it learns nothing.
        examples=examples,
        manifest=job.manifest,
        preprocessing=job.preprocessing,
        budget=spec.budget,
        regularisation=spec.student.regularisation,
        teacher=features,
    )


def _repaired(job: _Job, trained_at: Path) -> Path:
    """Return the folder of the nets with repaired biases, or of the nets as trained where none are asked."""
    asked = job.spec.bias_repair
    if asked is None:
        return trained_at
    return repair_biases(
        job.context, asked, job.network, job.spec.dataset, job.manifest, job.preprocessing, trained_at
    )


def _evaluate(
    job: _Job,
    client: TeacherClient,
    nets: list[TrainedNet],
    trained_at: Path,
    nets_at: Path,
    directory: Path,
) -> None:
    context, spec, classes = job.context, job.spec, job.manifest.classes
    steps = len(nets) + 1
    asked_before = client.rows_asked
    context.progress(Stage.EVALUATE, 0, steps, "nets")
    test = context.store.datasets.load(spec.dataset, "test")
    images, labels = held_out(context, spec.dataset)
    teacher_logits = torch.from_numpy(ask_all(context, client, job.teacher, test.images))
    keep_teacher(directory, teacher_logits.numpy(), labels.numpy())
    asked = client.rows_asked - asked_before

    def on_net(done: int) -> None:
        context.progress(Stage.EVALUATE, done, steps, "nets")

    logits = logits_of(job.network, nets, images, job.preprocessing, on_net)
    twins = evaluate_twins(nets, logits, labels, classes, spec.seeds, teacher_logits)
    before = None
    if spec.bias_repair is not None:
        biases = load_repair(nets_at).biases
        unrepaired = {net: of - biases[net] for net, of in logits.items()}
        as_trained = outcomes.load_nets(trained_at)
        before = evaluate_twins(as_trained, unrepaired, labels, classes, spec.seeds, teacher_logits)
    context.progress(Stage.EVALUATE, steps, steps, "nets", {"gain": twins.comparison.gain})
    outcome = Outcome(
        teacher=evaluate(teacher_logits, labels, classes),
        twins=twins,
        before_repair=before,
        teacher_rows=asked,
        teacher_latency_ms=_teacher_latency_ms(client, job.teacher, test.images[:1]),
    )
    outcomes.save(directory / "outcome.json", outcome)


def _report(
    job: _Job,
    pair: CheckedPair,
    learned: _Learned,
    outcome: Outcome,
    exported: Exported,
    *,
    curves: tuple[TrainingCurve, ...],
    repair: Repair | None,
    seconds: dict[Stage, float],
    cascade: CascadeCurve,
) -> DistillationReport:
    context, spec, twins = job.context, job.spec, outcome.twins
    transfer_set = learned.transfer_set
    agreement = next(
        net.agreement for net in twins.nets if (net.arm, net.seed) == ("taught", twins.served_seed)
    )
    assert agreement is not None, "a distillation has a teacher"
    return DistillationReport(
        job_id=context.job_id,
        created_at=datetime.now(UTC),
        spec=spec,
        dataset_digest=job.manifest.digest,
        teacher_digest=job.teacher.digest,
        transfer_set_digest=transfer_set.digest,
        asked=transfer_set.asked(learned.waited_share),
        student_version=f"{spec.name}-{context.job_id.removeprefix('j-')}",
        teacher_parameters=teacher_parameters(context, job.teacher),
        student_parameters=job.network.parameters,
        student_bytes=exported.served.stat().st_size,
        teacher=outcome.teacher,
        taught=twins.taught,
        untaught=twins.untaught,
        agreement=agreement,
        comparison=twins.comparison,
        nets=twins.nets,
        repair=_repair_report(spec, repair, outcome.before_repair),
        pair=pair.check,
        findings=pair.findings,
        latency=exported.outcome.latency,
        graphs=exported.outcome.graphs,
        teacher_latency_ms=outcome.teacher_latency_ms,
        cascade=cascade,
        curves=curves,
        warnings=warnings_after(pair, curves)
        if job.manifest.labelled
        else (*pair.warnings, TWIN_OF_UNLABELLED),
        cost=cost_of(
            context,
            seconds,
            teacher_rows=pair.teacher_rows + transfer_set.teacher_rows + outcome.teacher_rows,
            cached_rows=transfer_set.rows_from_cache,
        ),
    )


def _repair_report(
    spec: DistillationSpec, repair: Repair | None, before: Twins | None
) -> RepairReport | None:
    if spec.bias_repair is None or repair is None or before is None:
        return None
    figures = {(net.arm, net.seed): net for net in before.nets}
    return RepairReport(
        source=spec.bias_repair.source,
        images=repair.images,
        shares=repair.shares,
        nets=tuple(
            RepairedNet(arm=net.arm, seed=net.seed, biases=net.biases, before=figures[net.arm, net.seed])
            for net in repair.nets
        ),
        comparison_before=before.comparison,
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
