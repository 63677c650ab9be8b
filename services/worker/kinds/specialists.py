"""A job of kind `specialists`: specialists for a generalist, and what they are worth together.

Stages: check, transfer_set, plan, train (child jobs, one a set and seed, that spread over workers), evaluate,
export, report. In the export stage generalist and specialists become a teacher, in the last one a student;
promoting it is the user's decision. Source: arXiv:1503.02531, section 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, JsonValue
from torch import Tensor

from services.worker.kinds.specialist import Specialist, load_specialist, objective_of
from services.worker.stages import outcomes
from services.worker.stages.asking import teacher_client
from services.worker.stages.check import check_order
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.ensemble_bundle import EnsembleExport, publish_ensemble, write_ensemble
from services.worker.stages.ensemble_evaluation import EnsembleOutcome, evaluate_ensembles
from services.worker.stages.owning import owned_teacher
from services.worker.stages.training import cost_of
from services.worker.stages.transfer_sets.stage import BuiltTransferSet, ask_teacher
from shared.contracts.datasets import DatasetManifest, DatasetView
from shared.contracts.jobs import ChildJob, JobResult, Stage
from shared.contracts.reports import SpecialistFigures, SpecialistsReport
from shared.contracts.specialists import GENERALIST, Combination, SpecialistPart, specialist_name
from shared.contracts.specs import SpecialistSpec, SpecialistsSpec
from shared.contracts.students import BundleFile, StudentCard
from shared.contracts.teachers import Nets, TeacherDescription
from shared.distillation.clustering import covariance, specialist_sets
from shared.distillation.cohort import TrainedNet
from shared.distillation.reports.files import report_files, write_files
from shared.jobs.checks.specialists import check_specialists
from shared.models.checkpoints import from_arrays, to_arrays
from shared.models.devices import torch_device
from shared.models.specialist_ensemble import SpecialistEnsemble

Sets = tuple[tuple[str, ...], ...]
Trained = Mapping[int, list[Path]]
"""By seed, the folder that the specialist of each set left; their nets are loaded a seed at a time."""


class Pinned(BaseModel):
    """Which generalist the job began with; its name may stand for another by the time its children ended."""

    digest: str


class Plan(BaseModel):
    """The plan stage's outcome."""

    sets: Sets


@dataclass(frozen=True)
class _Job:
    """What all stages of one job are told."""

    context: JobContext
    spec: SpecialistsSpec
    manifest: DatasetManifest
    generalist: TeacherDescription

    @property
    def dustbin(self) -> bool:
        """Whether specialists lump all other classes together."""
        return self.spec.training.rest == "dustbin"


def train_specialists(context: JobContext, spec: SpecialistsSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    generalist = _generalist(context, spec)

    def fits(view: DatasetView) -> None:
        check_specialists(spec, view, generalist)

    job = _Job(context, spec, check_order(context, spec.dataset, fits), generalist)
    with teacher_client(context) as client:
        transfer_set = ask_teacher(
            context,
            spec.transfer_set,
            spec.dataset,
            job.manifest,
            generalist,
            client,
            temperature=1.0,
            asking=spec.asking,
        )
    planned_at = _plan(job, transfer_set)
    sets = outcomes.load(planned_at / "plan.json", Plan).sets
    children = context.children([_child(job, one, seed) for seed in spec.seeds for one in sets])
    trained = {
        seed: [_left_by(context, child) for child in children[place * len(sets) : (place + 1) * len(sets)]]
        for place, seed in enumerate(spec.seeds)
    }
    inputs: dict[str, JsonValue] = {
        "plan": planned_at.name,
        "children": [child.id for child in children],
        "top_n": spec.top_n,
    }
    evaluated_at = context.once(
        Stage.EVALUATE, inputs, lambda directory: _evaluate(job, sets, trained, directory)
    )
    outcome = outcomes.load(evaluated_at / "outcome.json", EnsembleOutcome)
    tensors = _tensors(job, trained[outcome.seed])
    images = context.store.datasets.load(spec.dataset, "validation").images
    exported_at = context.once(
        Stage.EXPORT,
        {**inputs, "seed": outcome.seed},
        lambda directory: write_ensemble(context, directory, _description(job, sets), tensors, images),
    )
    teacher = _publish_teacher(job, sets, tensors, outcome)

    context.progress(Stage.REPORT, 0, 1, "files")
    report = _report(
        job,
        sets,
        trained,
        children,
        outcome,
        transfer_set,
        teacher,
        outcomes.load(exported_at / "export.json", EnsembleExport),
        seconds={
            Stage.TRANSFER_SET: transfer_set.seconds,
            Stage.PLAN: seconds_of(planned_at),
            Stage.EVALUATE: seconds_of(evaluated_at),
            Stage.EXPORT: seconds_of(exported_at),
        },
    )
    files = report_files(report)
    publish_ensemble(
        context,
        report.student_version,
        exported_at,
        files,
        lambda listed: _card(job, sets, report, listed, exported_at),
    )
    write_files(context.files.directory, files)
    context.progress(Stage.REPORT, 1, 1, "files")
    return JobResult(
        teacher=teacher.name,
        teacher_digest=teacher.digest,
        student=report.student_version,
        verdict=report.comparison.verdict.value,
    )


# --- stages ------------------------------------------------------------------------------------------------


def _generalist(context: JobContext, spec: SpecialistsSpec) -> TeacherDescription:
    """Return the generalist as it was when the job began."""
    pinned_at = context.once(
        Stage.CHECK,
        {"generalist": spec.generalist},
        lambda directory: outcomes.save(
            directory / "generalist.json",
            Pinned(digest=context.store.teachers.current(spec.generalist).digest),
        ),
    )
    digest = outcomes.load(pinned_at / "generalist.json", Pinned).digest
    return context.store.teachers.described(spec.generalist, digest)


def _plan(job: _Job, transfer_set: BuiltTransferSet) -> Path:
    spec, classes = job.spec, job.generalist.classes

    def build(directory: Path) -> None:
        job.context.progress(Stage.PLAN, 0, 1, "plans")
        sets = spec.plan.classes
        if sets is None:
            # The image as it is: view 0.
            stored = job.context.transfer_sets.open(transfer_set.digest)
            matrix = covariance(stored.sparse[0].dense() if stored.sparse is not None else stored.logits[0])
            found = specialist_sets(matrix, sets=spec.plan.sets, size=spec.plan.size, seed=spec.plan.seed)
            sets = tuple(tuple(classes[index] for index in one) for one in found)
        outcomes.save(directory / "plan.json", Plan(sets=sets))
        job.context.progress(Stage.PLAN, 1, 1, "plans")

    inputs: dict[str, JsonValue] = {
        "transfer_set": transfer_set.digest,
        "plan": spec.plan.model_dump(mode="json"),
    }
    return job.context.once(Stage.PLAN, inputs, build)


def _child(job: _Job, classes: tuple[str, ...], seed: int) -> SpecialistSpec:
    spec = job.spec
    return SpecialistSpec(
        name=spec.name,
        generalist=spec.generalist,
        generalist_digest=job.generalist.digest,
        dataset=spec.dataset,
        classes=classes,
        training=spec.training,
        transfer_set=spec.transfer_set,
        seed=seed,
    )


def _left_by(context: JobContext, child: ChildJob) -> Path:
    assert child.result is not None, "children that did not succeed raise"
    assert child.result.artefact is not None, "every specialist leaves a folder"
    return context.child_files(child).directory / child.result.artefact


def _evaluate(job: _Job, sets: Sets, trained: Trained, directory: Path) -> None:
    context, classes = job.context, job.generalist.classes

    def ensemble_of(seed: int) -> SpecialistEnsemble:
        return SpecialistEnsemble(
            _description(job, sets),
            _tensors(job, trained[seed]),
            device=torch_device(context.settings.device),
        )

    indices = [[classes.index(name) for name in one] for one in sets]
    outcome = evaluate_ensembles(context, job.spec, classes, indices, ensemble_of)
    outcomes.save(directory / "outcome.json", outcome)


def _publish_teacher(
    job: _Job, sets: Sets, tensors: Mapping[str, Tensor], outcome: EnsembleOutcome
) -> TeacherDescription:
    described = _description(job, sets)
    teachers = job.context.store.teachers
    with owned_teacher(job.context, described.name):
        teacher = teachers.publish_nets(
            name=described.name,
            tensors=to_arrays(tensors),
            model=described.nets,
            classes=described.classes,
            preprocessing=described.preprocessing,
            precision=described.precision,
            test_accuracy=outcome.combined.accuracy,
            job_id=job.context.job_id,
            created_at=datetime.now(UTC),
        )
        job.context.need_lease()
        teachers.make_current(teacher.name, teacher.digest)
    return teacher


def _report(
    job: _Job,
    sets: Sets,
    trained: Trained,
    children: tuple[ChildJob, ...],
    outcome: EnsembleOutcome,
    transfer_set: BuiltTransferSet,
    teacher: TeacherDescription,
    export: EnsembleExport,
    *,
    seconds: dict[Stage, float],
) -> SpecialistsReport:
    context, spec = job.context, job.spec
    left: list[list[tuple[Specialist, TrainedNet]]] = [[] for _ in sets]
    for folders in trained.values():
        for number, folder in enumerate(folders):
            how, net = load_specialist(folder)
            left[number].append((how, replace(net, tensors={})))  # of its weights nothing is told
    specialists = [
        SpecialistFigures(
            classes=classes,
            share=left[number][0][0].share,
            correction=left[number][0][0].correction,
            jobs=tuple(child.id for child in children[number :: len(sets)]),
            validation_accuracies=tuple(net.validation_accuracy for _, net in left[number]),
            best_epochs=tuple(net.best_epoch for _, net in left[number]),
            asked=outcome.asked[number],
        )
        for number, classes in enumerate(sets)
    ]
    seconds = {
        **seconds,
        Stage.TRAIN: sum(net.curve.points[-1].seconds for of_set in left for _, net in of_set),
    }
    published = spec.seeds.index(outcome.seed)
    return SpecialistsReport(
        job_id=context.job_id,
        created_at=datetime.now(UTC),
        spec=spec,
        dataset_digest=job.manifest.digest,
        generalist_digest=job.generalist.digest,
        transfer_set_digest=transfer_set.digest,
        asked=transfer_set.asked(),
        teacher_digest=teacher.digest,
        student_version=f"{spec.name}-{context.job_id.removeprefix('j-')}",
        generalist_parameters=export.generalist_parameters,
        parameters=export.parameters,
        seed=outcome.seed,
        generalist=outcome.generalist,
        combined=outcome.combined,
        comparison=outcome.comparison,
        coverage=outcome.coverage,
        specialists=tuple(specialists),
        latency=export.latency,
        generalist_latency=export.generalist_latency,
        curves=tuple(
            of_set[published][1].curve.model_copy(update={"arm": specialist_name(number)})
            for number, of_set in enumerate(left)
        ),
        cost=cost_of(
            context, seconds, teacher_rows=transfer_set.teacher_rows, cached_rows=transfer_set.rows_from_cache
        ),
    )


# --- the ensemble ------------------------------------------------------------------------------------------


def _description(job: _Job, sets: Sets) -> TeacherDescription:
    """Return what describes the ensemble but for its digest, which its weights decide."""
    generalist = job.generalist
    combination = Combination(
        top_n=job.spec.top_n,
        specialists=tuple(SpecialistPart(classes=one, dustbin=job.dustbin) for one in sets),
    )
    model = Nets(architecture=generalist.one_net.architecture, specialists=combination)
    return generalist.model_copy(update={"name": job.spec.name, "digest": "0" * 64, "model": model})


def _tensors(job: _Job, folders: Sequence[Path]) -> dict[str, Tensor]:
    """Return the tensors of all nets, named and shaped as those of a teacher."""
    generalist = from_arrays(job.context.store.teachers.load(job.generalist))
    tensors = {f"{GENERALIST}/{name}": tensor for name, tensor in generalist.items()}
    for number, folder in enumerate(folders):
        _, net = load_specialist(folder)
        for name, tensor in net.tensors.items():
            tensors[f"{specialist_name(number)}/{name}"] = tensor.unsqueeze(0)
    return tensors


def _card(
    job: _Job,
    sets: Sets,
    report: SpecialistsReport,
    files: dict[str, BundleFile],
    exported_at: Path,
) -> StudentCard:
    spec, described = job.spec, _description(job, sets)
    export = outcomes.load(exported_at / "export.json", EnsembleExport)
    return StudentCard(
        version=report.student_version,
        name=spec.name,
        job_id=report.job_id,
        created_at=report.created_at,
        classes=described.classes,
        preprocessing=described.preprocessing,
        architecture=described.nets.architecture,
        specialists=described.nets.specialists,
        parameters=report.parameters,
        teacher=spec.generalist,
        teacher_digest=report.generalist_digest,
        teacher_parameters=report.generalist_parameters,
        dataset=spec.dataset,
        dataset_digest=report.dataset_digest,
        transfer_set_digest=report.transfer_set_digest,
        objective=objective_of(spec.training),
        seed=report.seed,
        evaluation=report.combined,
        comparison=report.comparison,
        latency=report.latency,
        onnx_largest_difference=export.largest_difference,
        files=files,
    )
