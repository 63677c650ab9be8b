"""A job of kind `transfer_set`: it asks a teacher about a dataset, and makes nothing else.

Stages: check, transfer_set, report. Later jobs that want the same set, or a part of it, find it.
"""

from datetime import UTC, datetime

from services.worker.stages.asking import teacher_client
from services.worker.stages.check import check_order
from services.worker.stages.context import JobContext
from services.worker.stages.pinned import pinned_teacher
from services.worker.stages.training import cost_of
from services.worker.stages.transfer_sets.stage import ask_teacher
from services.worker.stages.transfer_sets.summaries import stored_summary
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import TransferSetReport
from shared.contracts.specs import TransferSetJobSpec
from shared.distillation.reports.files import report_files, write_files
from shared.jobs.checks.transfer_set_job import check_set


def build_set(context: JobContext, spec: TransferSetJobSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    teacher = pinned_teacher(context, spec.teacher)
    manifest = check_order(context, spec.dataset, lambda view: check_set(spec, view, teacher))
    with teacher_client(context) as client:
        built = ask_teacher(
            context,
            spec.transfer_set,
            spec.dataset,
            manifest,
            teacher,
            client,
            temperature=spec.temperature,
            asking=spec.asking,
        )
    context.progress(Stage.REPORT, 0, 1, "files")
    summary = stored_summary(context.transfer_sets, built.digest)
    assert summary is not None, "written with the set"
    report = TransferSetReport(
        job_id=context.job_id,
        created_at=datetime.now(UTC),
        spec=spec,
        dataset_digest=manifest.digest,
        teacher_digest=teacher.digest,
        transfer_set_digest=built.digest,
        images=built.rows,
        asked=built.asked(),
        summary=summary,
        cost=cost_of(
            context,
            {Stage.TRANSFER_SET: built.seconds},
            teacher_rows=built.teacher_rows,
            cached_rows=built.rows_from_cache,
        ),
    )
    write_files(context.files.directory, report_files(report))
    context.progress(Stage.REPORT, 1, 1, "files")
    return JobResult(teacher=teacher.name, teacher_digest=teacher.digest, transfer_set=built.digest)
