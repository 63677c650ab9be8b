"""A sweep and a co-distilled cohort on real workers: their children train in processes of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.adapters.dispatch import CeleryDispatcher
from shared.adapters.redis_jobs import RedisJobStore
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.jobs import FINAL_STATES, JobState, JobView
from shared.contracts.reports import CodistillationReport, SweepReport
from shared.contracts.specs import CodistillationSpec, FloatRange, JobSpec, SweepSpec
from shared.contracts.training import Budget
from shared.jobs.service import new_job_id
from tests.support.distilling import SHAPES, shapes
from tests.support.teachers import publish, teacher_process
from tests.support.worker_process import WorkerProcess, eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SWEEP = SweepSpec(
    name="swept",
    teacher="shapes",
    dataset="shapes",
    networks=(Mlp(hidden_units=(16,)),),
    temperatures=FloatRange(low=1.0, high=20.0, log=True),
    sampler="tpe",
    trials=15,
    budget=Budget(epochs=10, batch_size=16, learning_rate=1e-2),
    seeds=(0, 1),
)
COHORT = CodistillationSpec(
    name="far", dataset="shapes", network=Mlp(hidden_units=(16,)), budget=Budget(epochs=3), seeds=(0, 1)
)


class Place:
    """A state directory with a dataset, a teacher service and workers."""

    def __init__(self, redis_url: str, state_dir: Path) -> None:
        self.redis_url, self.state_dir = redis_url, state_dir
        self.jobs = RedisJobStore(redis_url, resend_first_s=0.3)
        self.dispatcher = CeleryDispatcher(redis_url)
        self.store = ArtefactStore(state_dir / "store")
        self.workers: list[WorkerProcess] = []
        splits = {"train": shapes(400, 1), "validation": shapes(200, 2), "test": shapes(400, 3)}
        self.store.datasets.put("shapes", splits, classes=SHAPES, source="made up")
        publish(state_dir / "store")

    def start_worker(self) -> None:
        settings = {"concurrency": 2, "threads": 1, "lease_s": 3, "checkpoint_s": 1}
        module = "services.worker.training_process"
        worker = WorkerProcess(self.redis_url, self.state_dir, training_module=module, **settings)
        self.workers.append(worker)
        worker.wait_until_ready()

    def submit(self, spec: JobSpec) -> str:
        job, _ = self.jobs.submit(new_job_id(), spec)
        self.dispatcher.send(job.id)
        return job.id

    def succeed(self, job_id: str) -> JobView:
        eventually(lambda: self.jobs.get(job_id).state in FINAL_STATES, 200, f"an end of {job_id}")
        job = self.jobs.get(job_id)
        assert job.state is JobState.SUCCEEDED, (job.failure, self.workers[-1].log.read_text())
        return job

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.jobs.close()
        self.dispatcher.close()


@pytest.fixture
def place(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(redis_url, tmp_path)
    with teacher_process(tmp_path) as teacher_url:
        monkeypatch.setenv("TEACHER_URL", teacher_url)
        place.start_worker()
        yield place
        place.close()


def test_a_sweep_whose_worker_is_killed_ends_with_all_its_trials_and_a_student(place: Place):
    job_id = place.submit(SWEEP)

    def a_child_trains() -> bool:
        children = [place.jobs.get(child) for child in place.jobs.get(job_id).children]
        return any(child.progress and child.progress.metrics for child in children)

    eventually(a_child_trains, 100, "a child is training")
    place.workers[-1].kill()
    place.start_worker()
    job = place.succeed(job_id)
    report = SweepReport.model_validate_json(place.store.job(job_id).report_json.read_bytes())
    (network,) = report.networks
    assert len(network.trials) == 15
    assert network.jobs == job.children
    assert len(job.children) == 3
    assert report.cost.teacher_rows == 400 + 200 + 400
    assert place.store.students.card(job.result.student).comparison == report.comparison
    assert max(place.jobs.get(child).epoch for child in job.children) >= 2


def test_a_cohort_is_co_distilled_by_two_training_processes(place: Place):
    job = place.succeed(place.submit(COHORT))
    report = CodistillationReport.model_validate_json(place.store.job(job.id).report_json.read_bytes())
    assert report.members == job.children
    assert {(one.member, one.seed) for one in report.exchanges} == {(m, s) for m in (0, 1) for s in (0, 1)}
    assert place.store.students.card(job.result.student).teacher is None
