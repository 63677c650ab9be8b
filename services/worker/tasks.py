"""The worker's one Celery task: it takes a job's id and wires it to the supervisor."""

from celery import Celery

from services.worker.supervisor import Supervisor
from shared.contracts import task_names


def register(app: Celery, supervisor: Supervisor) -> None:
    """Let the app answer to `task_names.RUN_JOB`."""

    def run_job(job_id: str) -> None:
        supervisor.run(job_id)

    app.task(run_job, name=task_names.RUN_JOB, ignore_result=True)
