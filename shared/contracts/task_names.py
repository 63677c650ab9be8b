"""The names by which the gateway sends Celery tasks and the worker answers to them, and their queue."""

RUN_JOB = "imago.run_job"
"""Its one argument is a job id: the message is a hint, the truth is in the job record."""

JOBS_QUEUE = "imago-jobs"
