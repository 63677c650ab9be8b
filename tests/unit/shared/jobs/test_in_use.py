"""Which jobs keep a transfer set from being deleted."""

import pytest

from shared.contracts.architectures import Mlp
from shared.contracts.jobs import Failure, JobResult
from shared.contracts.specs import (
    CodistillationSpec,
    JobSpec,
    RedistillationSpec,
    SpecialistSpec,
    SpecialistsSpec,
    SweepSpec,
    SweepTrialsSpec,
    TeacherImportSpec,
    TransferSetJobSpec,
)
from shared.contracts.teacher_sources import OnnxSource, SentFiles, TransformersSource
from shared.jobs.in_use import WantedSet, jobs_that_may_use, may_use, uploads_that_jobs_name
from shared.jobs.memory_store import MemoryJobStore
from shared.jobs.service import JobService
from tests.support.jobs import (
    KnownThings,
    RememberingDispatcher,
    dataset_manifest,
    dataset_view,
    distillation_spec,
    teacher_spec,
)

WANTED = WantedSet(digest="5" * 64, teacher="big", dataset_digest=dataset_manifest().digest)
SWEEP = SweepSpec(name="s", teacher="big", dataset="digits")


def trials(transfer_set: str) -> SweepTrialsSpec:
    return SweepTrialsSpec(
        name="s", dataset="digits", study="j-1-0", transfer_set=transfer_set, network=Mlp(), order=SWEEP
    )


USERS: list[JobSpec] = [
    distillation_spec(),
    distillation_spec(transfer_set=distillation_spec().transfer_set.model_copy(update={"views": 7})),
    SWEEP,
    TransferSetJobSpec(name="set", teacher="big", dataset="digits"),
    SpecialistsSpec(name="experts", generalist="big", dataset="digits"),
    SpecialistSpec(
        name="expert", generalist="big", generalist_digest="0" * 64, dataset="digits", classes=("1", "7")
    ),
    trials(WANTED.digest),
    # Not frozen yet: what it will be of is not known.
    RedistillationSpec(name="again", collection="unsure", dataset="frozen"),
]
OTHERS: list[JobSpec] = [
    teacher_spec("big"),
    distillation_spec(teacher="small"),
    SpecialistsSpec(name="experts", generalist="small", dataset="digits"),
    CodistillationSpec(name="big", dataset="digits"),
    trials("6" * 64),
]


@pytest.mark.parametrize("spec", USERS, ids=lambda spec: spec.kind)
def test_a_job_on_the_same_teacher_and_dataset_may_use_the_set(spec: JobSpec) -> None:
    assert may_use(spec, WANTED, KnownThings())


@pytest.mark.parametrize("spec", OTHERS, ids=lambda spec: spec.kind)
def test_other_jobs_may_not(spec: JobSpec) -> None:
    assert not may_use(spec, WANTED, KnownThings())


def test_a_dataset_of_the_same_name_and_another_content_is_another_dataset() -> None:
    changed = dataset_view(dataset_manifest(digest="2" * 64))
    assert not may_use(distillation_spec(), WANTED, KnownThings(changed))


def test_a_dataset_that_nobody_knows_may_be_the_one() -> None:
    assert may_use(distillation_spec(dataset="gone"), WANTED, KnownThings())
    assert may_use(distillation_spec(), WANTED, KnownThings(dataset_view(None, builtin=True)))


def test_every_job_that_asks_a_teacher_may_use_a_set_whose_manifest_is_damaged() -> None:
    damaged = WantedSet(digest=WANTED.digest, teacher=None, dataset_digest=None)
    assert may_use(distillation_spec(teacher="small"), damaged, KnownThings())
    assert not may_use(teacher_spec(), damaged, KnownThings())


def test_jobs_that_have_ended_use_nothing_and_the_others_are_named_oldest_first() -> None:
    store = MemoryJobStore()
    jobs = JobService(store, RememberingDispatcher(), KnownThings())
    ids = [jobs.submit(distillation_spec())[0].id for _ in range(7)]
    running, waiting, failed, succeeded, cancelled, paused, queued = ids
    for job_id in (running, waiting, failed, succeeded):
        store.acquire(job_id, 60, 3)
    store.wait(waiting, 1, [(f"{waiting}-000", trials(WANTED.digest))])
    store.fail(failed, 1, Failure(code="diverged", detail="nan"))
    store.succeed(succeeded, 1, JobResult())
    jobs.cancel(cancelled)
    jobs.pause(paused)
    jobs.submit(teacher_spec())
    found = jobs_that_may_use(WANTED, jobs, KnownThings())
    assert set(found) == {running, waiting, f"{waiting}-000", paused, queued}
    assert found[-1] == f"{waiting}-000"


def test_no_job_is_overlooked_however_many_there_are() -> None:
    jobs = JobService(MemoryJobStore(), RememberingDispatcher(), KnownThings())
    first = jobs.submit(distillation_spec())[0].id
    for _ in range(120):
        jobs.submit(teacher_spec())
    assert jobs_that_may_use(WANTED, jobs, KnownThings()) == (first,)


def test_uploads_are_named_by_the_jobs_that_have_not_ended() -> None:
    store = MemoryJobStore()
    jobs = JobService(store, RememberingDispatcher(), KnownThings())

    def bring(source: OnnxSource | TransformersSource) -> str:
        return jobs.submit(TeacherImportSpec(name="net", source=source))[0].id

    waiting, paused, ended = (f"upload-{number:032x}" for number in range(3))
    bring(OnnxSource(files=SentFiles(upload=waiting)))
    jobs.pause(bring(TransformersSource(files=SentFiles(upload=paused))))
    jobs.cancel(bring(OnnxSource(files=SentFiles(upload=ended))))
    bring(OnnxSource(files=SentFiles(folder="my-net")))
    jobs.submit(teacher_spec())
    assert uploads_that_jobs_name(jobs) == {waiting, paused}
