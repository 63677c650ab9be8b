"""A job of kind `teacher_import`: a model that was trained elsewhere becomes a teacher.

Stages: check (what was sent is read, and converted where it has to be), evaluate (it is tried), export (it
is published, where no check failed), report. The report is there where a check failed, too; an upload stays
until the job has succeeded.
"""

from datetime import UTC, datetime

from pydantic import JsonValue

from services.worker.stages import outcomes
from services.worker.stages.check import check_device, dataset_of
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.importing.draft import Draft, load_draft, write_draft
from services.worker.stages.importing.sources import discard_upload, read_source
from services.worker.stages.loading import asking, load_teacher
from services.worker.stages.owning import owned_teacher
from services.worker.stages.training import cost_of
from services.worker.stages.trying import Trial, sample_of, try_teacher
from shared.contracts.datasets import DatasetManifest
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import TeacherCheckReport
from shared.contracts.specs import TeacherImportSpec
from shared.contracts.teachers import MixedEnsemble
from shared.distillation.findings import unfit, with_outcome
from shared.distillation.reports.files import report_files, write_files


def import_teacher(context: JobContext, spec: TeacherImportSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    context.progress(Stage.CHECK, 0, 1, "models")
    check_device(context)
    manifest = dataset_of(context, spec.dataset).manifest if spec.dataset is not None else None
    inputs: dict[str, JsonValue] = {
        "spec": spec.model_dump(mode="json"),
        "dataset": manifest.digest if manifest is not None else None,
    }
    read_at = context.once(
        Stage.CHECK,
        inputs,
        lambda directory: write_draft(directory, spec, context.job_id, read_source(context, spec, manifest)),
    )
    draft = load_draft(read_at, spec)
    context.progress(Stage.CHECK, 1, 1, "models")
    tried_at = context.once(
        Stage.EVALUATE,
        {**inputs, "teacher": draft.description.digest},
        lambda directory: outcomes.save(directory / "trial.json", _try(context, spec, manifest, draft)),
    )
    trial = outcomes.load(tried_at / "trial.json", Trial)
    fits = not with_outcome(trial.findings, "failed")
    if fits:
        context.progress(Stage.EXPORT, 0, 1, "files")
        _publish(context, spec, draft, trial.accuracy)
        context.progress(Stage.EXPORT, 1, 1, "files")
    context.progress(Stage.REPORT, 0, 1, "files")
    report = TeacherCheckReport(
        job_id=context.job_id,
        created_at=datetime.now(UTC),
        spec=spec,
        teacher=spec.name,
        teacher_digest=draft.description.digest,
        dataset_digest=manifest.digest if manifest is not None else None,
        findings=trial.findings,
        images=trial.images,
        accuracy=trial.accuracy,
        suggested_temperature=trial.suggested_temperature,
        cost=cost_of(
            context,
            {Stage.CHECK: seconds_of(read_at), Stage.EVALUATE: seconds_of(tried_at)},
            teacher_rows=trial.images,
        ),
    )
    write_files(context.files.directory, report_files(report))
    context.progress(Stage.REPORT, 1, 1, "files")
    if not fits:
        raise unfit(spec.name, trial.findings)
    discard_upload(context, spec)
    return JobResult(teacher=spec.name, teacher_digest=draft.description.digest)


def _try(
    context: JobContext, spec: TeacherImportSpec, manifest: DatasetManifest | None, draft: Draft
) -> Trial:
    context.progress(Stage.EVALUATE, 0, 1, "teachers")
    description = draft.description
    sample = None
    if spec.dataset is not None and manifest is not None:
        sample = sample_of(context, spec.dataset, manifest)
    several = isinstance(description.model, MixedEnsemble)
    trial = try_teacher(
        description,
        manifest,
        sample,
        lambda: asking(context, load_teacher(context, description, draft.store)),
        centred=several,
        claimed=spec.claimed_accuracy,
        as_if=lambda other: asking(context, load_teacher(context, description, draft.store, other)),
    )
    context.progress(Stage.EVALUATE, 1, 1, "teachers")
    return trial.model_copy(update={"findings": (*draft.findings, *trial.findings)})


def _publish(context: JobContext, spec: TeacherImportSpec, draft: Draft, accuracy: float | None) -> None:
    read = draft.description
    with owned_teacher(context, spec.name):
        teacher = context.store.teachers.publish(
            name=spec.name,
            model=read.model,
            files={name: draft.store.file(read, name) for name in read.files},
            classes=read.classes,
            preprocessing=read.preprocessing,
            precision=read.precision,
            # On validation images, by which nothing of it was chosen: as good as test images.
            test_accuracy=accuracy,
            source=read.source,
            job_id=context.job_id,
            created_at=datetime.now(UTC),
        )
        context.need_lease()
        context.store.teachers.make_current(spec.name, teacher.digest)
