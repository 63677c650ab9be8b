from celery import Celery

from services.worker.app import create_consumer
from services.worker.settings import WorkerSettings
from services.worker.tasks import register
from shared.contracts import task_names


class Supervisor:
    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(self, job_id: str) -> None:
        self.ran.append(job_id)


def test_the_task_answers_to_its_name_and_hands_the_id_on() -> None:
    app, supervisor = Celery(set_as_current=False), Supervisor()
    register(app, supervisor)  # type: ignore[arg-type]
    app.tasks[task_names.RUN_JOB].apply(("j-1",), throw=True)
    assert supervisor.ran == ["j-1"]


def test_the_consumer_keeps_to_the_settings_that_lose_nothing() -> None:
    conf = create_consumer(WorkerSettings()).conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert not conf.worker_cancel_long_running_tasks_on_connection_loss
    assert conf.worker_prefetch_multiplier == 1
    assert conf.broker_channel_error_retry
    assert not conf.worker_enable_remote_control
    assert conf.result_backend is None
    assert conf.accept_content == ["json"]
    assert conf.broker_transport_options["visibility_timeout"] == 7 * 24 * 3600
