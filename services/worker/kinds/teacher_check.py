"""A job of kind `teacher_check`: the teacher service is asked about a sample, and what is found is reported.

Stages: check, report. The job succeeds whatever it finds; who reads its report decides.
"""

from datetime import UTC, datetime

from services.worker.stages import outcomes
from services.worker.stages.asking import ask_all, teacher_client
from services.worker.stages.check import check_order
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.training import cost_of
from services.worker.stages.trying import Trial, sample_of, try_teacher
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import TeacherCheckReport
from shared.contracts.specs import TeacherCheckSpec
from shared.distillation.reports.files import report_files, write_files

PATIENCE_S = 20.0
"""How long a teacher that does not answer is waited for: a person waits for the list."""


def check_teacher(context: JobContext, spec: TeacherCheckSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    teacher = context.store.teachers.current(spec.name)
    manifest = check_order(context, spec.dataset)

    def ask() -> Trial:
        with teacher_client(context, patience_s=PATIENCE_S) as client:
            return try_teacher(
                teacher,
                manifest,
                sample_of(context, spec.dataset, manifest),
                lambda: lambda images: ask_all(context, client, teacher, images),
                centred=True,
                claimed=spec.claimed_accuracy,
            )

    tried_at = context.once(
        Stage.CHECK,
        {"dataset": manifest.digest, "teacher": teacher.digest, "claimed": spec.claimed_accuracy},
        lambda directory: outcomes.save(directory / "trial.json", ask()),
    )
    trial = outcomes.load(tried_at / "trial.json", Trial)
    context.progress(Stage.REPORT, 0, 1, "files")
    report = TeacherCheckReport(
        job_id=context.job_id,
        created_at=datetime.now(UTC),
        spec=spec,
        teacher=spec.name,
        teacher_digest=teacher.digest,
        dataset_digest=manifest.digest,
        findings=trial.findings,
        images=trial.images,
        accuracy=trial.accuracy,
        suggested_temperature=trial.suggested_temperature,
        cost=cost_of(context, {Stage.CHECK: seconds_of(tried_at)}, teacher_rows=trial.images),
    )
    write_files(context.files.directory, report_files(report))
    context.progress(Stage.REPORT, 1, 1, "files")
    return JobResult(teacher=spec.name, teacher_digest=teacher.digest)
