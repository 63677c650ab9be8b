"""A job of kind `sweep`: temperature, weights and width on one transfer set, and the student that follows.

Stages: check, plan, transfer_set, train (by child jobs, one or several for each network), export, evaluate,
report. The teacher is asked by this job alone. The study of each network stays on Redis until the report is
written; the report has all that was in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, JsonValue

from services.worker.kinds.sweep_parts import Joined, join, part_of
from services.worker.kinds.sweep_trials import TAUGHT, UNTAUGHT
from services.worker.stages import outcomes
from services.worker.stages.asking import ask_all, teacher_client, teacher_parameters
from services.worker.stages.bundle import Exported, export_net, publish_bundle
from services.worker.stages.cascade import keep_teacher, load_curve, measure_cascade
from services.worker.stages.check import check_order
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.training import cost_of, held_out, preprocessing_of
from services.worker.stages.transfer_sets.stage import BuiltTransferSet, ask_teacher
from shared.adapters.redis_studies import RedisJournal
from shared.adapters.teacher_client import TeacherClient
from shared.artefacts.tensors import read_tensors, write_tensors
from shared.contracts.architectures import Architecture
from shared.contracts.datasets import DatasetManifest
from shared.contracts.evaluation import Comparison, Evaluation
from shared.contracts.images import Preprocessing
from shared.contracts.jobs import ChildJob, JobResult, Stage
from shared.contracts.reports import SweepReport, SweptNetwork
from shared.contracts.specs import SweepSpec, SweepTrialsSpec
from shared.contracts.students import BundleFile, StudentCard
from shared.contracts.teachers import TeacherDescription
from shared.contracts.training import Objective
from shared.distillation.cohort import TrainedNet
from shared.distillation.evaluation import evaluate
from shared.distillation.inference import net_logits
from shared.distillation.reports.files import report_files, write_files
from shared.distillation.reports.sweep import network_name
from shared.distillation.sweep import Candidate, choose, satisfies
from shared.distillation.verdict import compare
from shared.jobs.checks.sweep import check_ranges, check_sweep, children_a_network, one_value
from shared.models.network import Network


@dataclass(frozen=True)
class _Swept:
    """A network whose trials are done: what its child jobs left, and its best trial exported here."""

    network: Architecture
    joined: Joined
    nets: list[TrainedNet]
    exported: Exported
    candidate: Candidate

    @property
    def objective(self) -> Objective:
        """What the best trial's nets were taught by."""
        best = self.joined.best
        return Objective(
            temperature=best.temperature, soft_weight=best.soft_weight, hard_weight=best.hard_weight
        )

    def net(self, arm: str) -> TrainedNet:
        """Return the net of the exported seed."""
        return next(net for net in self.nets if (net.arm, net.seed) == (arm, self.exported.outcome.seed))


class _Asked(BaseModel):
    teacher_rows: int


class _Verdict(BaseModel):
    """The chosen network at its best trial against its untaught twin, on the test split."""

    taught: Evaluation
    untaught: Evaluation
    agreement: float
    comparison: Comparison


def sweep(context: JobContext, spec: SweepSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    check_ranges(spec)
    teacher = _pinned_teacher(context, spec)
    manifest = check_order(context, spec.dataset, lambda view: check_sweep(spec, view, teacher))
    preprocessing = preprocessing_of(manifest)
    with teacher_client(context) as client:
        transfer_set = ask_teacher(
            context,
            spec.transfer_set,
            spec.dataset,
            manifest,
            teacher,
            client,
            temperature=one_value(spec.temperatures) or 1.0,
            asking=spec.asking,
        )
        answers_at = _ask_held_out(context, spec, manifest, teacher, client)
    studies = [f"{context.job_id}-{place:03d}" for place in range(len(spec.networks))]
    parts = children_a_network(spec)
    children = context.children(
        [
            SweepTrialsSpec(
                name=spec.name,
                dataset=spec.dataset,
                study=study,
                transfer_set=transfer_set.digest,
                network=network,
                part=part,
                parts=parts,
                order=spec,
            )
            for study, network in zip(studies, spec.networks, strict=True)
            for part in range(parts)
        ]
    )
    swept = [
        _export(context, spec, manifest, preprocessing, network, children[parts * place :][:parts])
        for place, network in enumerate(spec.networks)
    ]
    answers = _Answers(context, spec, answers_at)
    candidate = choose([one.candidate for one in swept], spec.constraint, answers.validation_accuracy)
    chosen = next((one for one in swept if one.candidate is candidate), None)
    verdict_at = _compare(context, spec, manifest, preprocessing, chosen, answers) if chosen else None
    verdict = outcomes.load(verdict_at / "verdict.json", _Verdict) if verdict_at else None
    cascade_at = (
        measure_cascade(context, spec.dataset, chosen.exported, verdict_at) if chosen and verdict_at else None
    )
    version = f"{spec.name}-{context.job_id.removeprefix('j-')}" if chosen else None

    context.progress(Stage.REPORT, 0, 1, "files")
    report = SweepReport(
        job_id=context.job_id,
        created_at=datetime.now(UTC),
        spec=spec,
        dataset_digest=manifest.digest,
        teacher_digest=teacher.digest,
        transfer_set_digest=transfer_set.digest,
        asked=transfer_set.asked(),
        teacher_parameters=teacher_parameters(context, teacher),
        teacher_validation_accuracy=answers.validation_accuracy,
        teacher=evaluate(answers.test, answers.test_labels, manifest.classes),
        networks=tuple(_in_report(one, spec, answers) for one in swept),
        chosen=swept.index(chosen) if chosen else None,
        student_version=version,
        curves=tuple(net.curve for net in chosen.nets) if chosen else (),
        warnings=tuple(warning for one in swept for warning in _warnings(one)),
        cascade=load_curve(cascade_at) if cascade_at else None,
        cost=cost_of(
            context,
            _seconds(transfer_set, swept, answers_at, verdict_at, cascade_at),
            teacher_rows=transfer_set.teacher_rows + answers.teacher_rows,
        ).model_copy(update={"cached_rows": transfer_set.rows_from_cache}),
        **(verdict.model_dump() if verdict else {}),
    )
    files = report_files(report)
    if chosen is not None and verdict is not None and version is not None:
        _publish(context, report, files, manifest, preprocessing, chosen, verdict, version)
    else:
        context.note("no network keeps to the constraint: no student is published")
    write_files(context.files.directory, files)
    for study in studies:
        _forget(context, study)
    context.progress(Stage.REPORT, 1, 1, "files")
    return JobResult(
        teacher=spec.teacher,
        teacher_digest=teacher.digest,
        student=version,
        verdict=verdict.comparison.verdict.value if verdict else None,
    )


# --- before the children -----------------------------------------------------------------------------------


def _pinned_teacher(context: JobContext, spec: SweepSpec) -> TeacherDescription:
    """Return the teacher as it was when the job began: after its children the job runs again."""
    planned_at = context.once(
        Stage.PLAN,
        {"spec": spec.model_dump(mode="json")},
        lambda aside: outcomes.save(aside / "teacher.json", context.store.teachers.current(spec.teacher)),
    )
    return outcomes.load(planned_at / "teacher.json", TeacherDescription)


def _ask_held_out(
    context: JobContext,
    spec: SweepSpec,
    manifest: DatasetManifest,
    teacher: TeacherDescription,
    client: TeacherClient,
) -> Path:
    """Ask the teacher about the validation and test images, once."""

    def build(aside: Path) -> None:
        before = client.rows_asked
        answers = {}
        for done, split in enumerate(("validation", "test")):
            context.progress(Stage.TRANSFER_SET, done, 2, "splits")
            images = context.store.datasets.load(spec.dataset, split).images
            answers[split] = ask_all(context, client, teacher, images)
        write_tensors(aside / "answers.safetensors", answers)
        outcomes.save(aside / "asked.json", _Asked(teacher_rows=client.rows_asked - before))

    inputs: dict[str, JsonValue] = {"held_out": manifest.digest, "teacher": teacher.digest}
    return context.once(Stage.TRANSFER_SET, inputs, build)


class _Answers:
    """What the teacher said of the validation and test images, and their labels."""

    def __init__(self, context: JobContext, spec: SweepSpec, answers_at: Path) -> None:
        answers, _ = read_tensors(answers_at / "answers.safetensors")
        self.test = outcomes.tensor(answers["test"])
        self.test_images, self.test_labels = held_out(context, spec.dataset)
        validation = context.store.datasets.load(spec.dataset, "validation")
        assert validation.labels is not None, "checked before"
        self.validation_accuracy = float(np.mean(answers["validation"].argmax(-1) == validation.labels))
        self.teacher_rows = outcomes.load(answers_at / "asked.json", _Asked).teacher_rows


# --- after them --------------------------------------------------------------------------------------------


def _export(
    context: JobContext,
    spec: SweepSpec,
    manifest: DatasetManifest,
    preprocessing: Preprocessing,
    network: Architecture,
    children: Sequence[ChildJob],
) -> _Swept:
    """Export the best trial's best seed of a network, all networks on this machine.

    Raises:
        Diverged: every trial of the network did.
    """
    joined = join(network, [part_of(context, child) for child in children])
    taught = [net for net in outcomes.load_nets(joined.best_part.path) if net.arm == TAUGHT]
    untaught = [net for net in outcomes.load_nets(joined.parts[0].path) if net.arm == UNTAUGHT]
    served = max(taught, key=lambda net: net.validation_accuracy or 0.0)
    inputs: dict[str, JsonValue] = {**joined.name_of_best, "seed": served.seed}
    exported = export_net(context, inputs, network, spec.dataset, manifest, preprocessing, served)
    candidate = Candidate(
        parameters=Network(network, manifest.input, len(manifest.classes)).parameters,
        validation_accuracy=joined.best.validation_accuracy,
        p50_ms=next(one.p50_ms for one in exported.outcome.latency if one.batch == 1),
    )
    return _Swept(network, joined, taught + untaught, exported, candidate)


def _compare(
    context: JobContext,
    spec: SweepSpec,
    manifest: DatasetManifest,
    preprocessing: Preprocessing,
    chosen: _Swept,
    answers: _Answers,
) -> Path:
    def build(aside: Path) -> None:
        network = Network(chosen.network, manifest.input, len(manifest.classes))
        logits: dict[tuple[str, int], torch.Tensor] = {}
        for done, net in enumerate(chosen.nets):
            context.progress(Stage.EVALUATE, done, len(chosen.nets), "nets")
            logits[net.arm, net.seed] = net_logits(network, net.tensors, answers.test_images, preprocessing)
        theirs = answers.test.argmax(-1)
        right = {
            arm: np.stack(
                [(logits[arm, seed].argmax(-1) == answers.test_labels).numpy() for seed in spec.seeds]
            )
            for arm in (TAUGHT, UNTAUGHT)
        }
        agreements = [
            float((logits[TAUGHT, seed].argmax(-1) == theirs).float().mean()) for seed in spec.seeds
        ]
        served = chosen.exported.outcome.seed
        verdict = _Verdict(
            taught=evaluate(logits[TAUGHT, served], answers.test_labels, manifest.classes),
            untaught=evaluate(logits[UNTAUGHT, served], answers.test_labels, manifest.classes),
            agreement=agreements[spec.seeds.index(served)],
            comparison=compare(right[TAUGHT], right[UNTAUGHT], seeds=spec.seeds, agreements=agreements),
        )
        outcomes.save(aside / "verdict.json", verdict)
        keep_teacher(aside, answers.test.numpy(), answers.test_labels.numpy())
        context.progress(Stage.EVALUATE, len(chosen.nets), len(chosen.nets), "nets")

    return context.once(Stage.EVALUATE, {**chosen.joined.name_of_best, "keeps": "teacher"}, build)


def _warnings(one: _Swept) -> list[str]:
    trials = one.joined.trials
    diverged = sum(trial.diverged is not None for trial in trials)
    name = network_name(one.network)
    return [f"{diverged} of {len(trials)} trials of {name} diverged and were left out"] if diverged else []


def _in_report(one: _Swept, spec: SweepSpec, answers: _Answers) -> SweptNetwork:
    return SweptNetwork(
        network=one.network,
        job_id=one.joined.best_part.child.id,
        jobs=tuple(part.child.id for part in one.joined.parts),
        parameters=one.candidate.parameters,
        trials=one.joined.trials,
        best=one.joined.best.number,
        untaught_validation_accuracies=one.joined.parts[0].outcome.untaught_validation_accuracies,
        untaught_test_accuracies=one.joined.parts[0].outcome.untaught_test_accuracies,
        seed=one.exported.outcome.seed,
        onnx_bytes=one.exported.served.stat().st_size,
        latency=one.exported.outcome.latency,
        graphs=one.exported.outcome.graphs,
        satisfies=satisfies(one.candidate, spec.constraint, answers.validation_accuracy),
    )


def _seconds(
    transfer_set: BuiltTransferSet,
    swept: Sequence[_Swept],
    answers_at: Path,
    verdict_at: Path | None,
    cascade_at: Path | None,
) -> dict[Stage, float]:
    """Return the seconds of each stage; training is the sum over the child jobs, wherever they ran."""
    answered = [part.path for one in swept for part in one.joined.parts]
    rounds = [folder for path in answered for folder in path.parent.glob(f"{Stage.TRAIN.value}-*")]
    evaluations = answered + ([verdict_at] if verdict_at else [])
    exports = [one.exported.path for one in swept] + ([cascade_at] if cascade_at else [])
    return {
        Stage.TRANSFER_SET: transfer_set.seconds + seconds_of(answers_at),
        Stage.TRAIN: sum(map(seconds_of, rounds)),
        Stage.EVALUATE: sum(map(seconds_of, evaluations)),
        Stage.EXPORT: sum(map(seconds_of, exports)),
    }


def _publish(
    context: JobContext,
    report: SweepReport,
    files: dict[str, bytes],
    manifest: DatasetManifest,
    preprocessing: Preprocessing,
    chosen: _Swept,
    verdict: _Verdict,
    version: str,
) -> None:
    spec, exported = report.spec, chosen.exported

    def card(listed: dict[str, BundleFile]) -> StudentCard:
        return StudentCard(
            version=version,
            name=spec.name,
            job_id=context.job_id,
            created_at=datetime.now(UTC),
            classes=manifest.classes,
            preprocessing=preprocessing,
            architecture=chosen.network,
            parameters=chosen.candidate.parameters,
            teacher=spec.teacher,
            teacher_digest=report.teacher_digest,
            teacher_parameters=report.teacher_parameters,
            dataset=spec.dataset,
            dataset_digest=report.dataset_digest,
            transfer_set_digest=report.transfer_set_digest,
            objective=chosen.objective,
            seed=exported.outcome.seed,
            evaluation=verdict.taught,
            comparison=verdict.comparison,
            latency=exported.outcome.latency,
            onnx_largest_difference=exported.outcome.largest_difference,
            cascade=report.cascade,
            files=listed,
        )

    publish_bundle(context, version, files, exported, card)


def _forget(context: JobContext, study: str) -> None:
    journal = RedisJournal(context.settings.redis_url, study, while_waiting=context.leave_if_stopped)
    try:
        journal.delete()
    finally:
        journal.close()
