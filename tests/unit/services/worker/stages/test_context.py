import errno
import os
import threading
import time
from pathlib import Path
from threading import Event

import pytest

from services.worker.protocol import ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext, JobStopped, JobWaits, StageClock, seconds_of
from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import MOST_CHILDREN, ChildJob, Failure, JobResult, JobState, Stage
from shared.contracts.specs import JobSpec, TeacherSpec
from shared.errors import ChildFailed, JobStoreUnavailable, TooManyChildren
from shared.jobs.memory_store import MemoryJobStore
from shared.jobs.ports import Signal


@pytest.fixture
def sent() -> list[ChildMessage]:
    return []


@pytest.fixture
def context(tmp_path: Path, sent: list[ChildMessage]) -> JobContext:
    order = ChildOrder(
        job_id="j-1", epoch=1, attempts=1, spec=TeacherSpec(name="teacher", dataset="mnist-5k")
    )
    settings = WorkerSettings(state_dir=tmp_path)
    return JobContext(order, settings, ArtefactStore(settings.store_dir), sent.append)


def test_a_stage_runs_once_for_the_same_inputs(context: JobContext, sent: list[ChildMessage]):
    runs = []

    def build(directory: Path) -> None:
        runs.append(directory)
        (directory / "output.txt").write_text("done")

    first = context.once(Stage.TRAIN, {"dataset": "a"}, build)
    second = context.once(Stage.TRAIN, {"dataset": "a"}, build)
    assert first == second
    assert (first / "output.txt").read_text() == "done"
    assert len(runs) == 1
    assert "was done before" in (sent[-1].note or "")


def test_other_inputs_make_another_output(context: JobContext):
    outputs = {context.once(Stage.TRAIN, {"seed": seed}, lambda _: None) for seed in range(3)}
    assert len(outputs) == 3


def test_a_stage_that_fails_leaves_nothing_that_looks_done(context: JobContext):
    def fail(directory: Path) -> None:
        (directory / "half.txt").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        context.once(Stage.TRAIN, {"seed": 1}, fail)
    again = context.once(Stage.TRAIN, {"seed": 1}, lambda directory: (directory / "whole").touch())
    assert not (again / "half.txt").exists()
    assert (again / "whole").exists()


def test_a_stage_tells_how_long_it_took(context: JobContext):
    assert seconds_of(context.once(Stage.TRAIN, {}, lambda _: None)) >= 0


def test_the_seconds_of_a_stage_are_those_of_all_its_attempts(context: JobContext):
    def cut_off(_: Path) -> None:
        time.sleep(0.05)
        raise JobStopped

    for _ in range(2):
        with pytest.raises(JobStopped):
            context.once(Stage.TRAIN, {}, cut_off)
    took = seconds_of(context.once(Stage.TRAIN, {}, lambda _: time.sleep(0.05)))
    assert 0.15 <= took < 5
    assert not list(context.files.attempts.iterdir())


def test_what_a_killed_attempt_took_is_known_up_to_its_last_progress(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
):
    """A process that is killed writes nothing at its end, so it writes as it goes."""
    monkeypatch.setattr("services.worker.stages.context._WRITTEN_EVERY_S", 0.0)
    kept: list[float] = []

    def build(_: Path) -> None:
        time.sleep(0.05)
        context.progress(Stage.TRAIN, 1, 2, "epochs")
        kept.extend(float(path.read_text()) for path in context.files.attempts.iterdir())

    context.once(Stage.TRAIN, {}, build)
    assert len(kept) == 1
    assert kept[0] >= 0.05


def test_a_stage_ends_for_its_own_reason_though_its_seconds_cannot_be_written(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """On a full disk a pause stays a pause."""

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("services.worker.stages.context.write_atomic", no_room)
    monkeypatch.setattr("services.worker.stages.context._WRITTEN_EVERY_S", 0.0)

    def leave(_: Path) -> None:
        context.stop.set()
        context.progress(Stage.TRAIN, 1, 2, "epochs")

    with pytest.raises(JobStopped):
        context.once(Stage.TRAIN, {}, leave)
    assert "could not be written" in caplog.text


def test_progress_leaves_when_the_supervisor_asked_to_stop(context: JobContext, sent: list[ChildMessage]):
    context.stop = Event()
    context.stop.set()
    with pytest.raises(JobStopped):
        context.progress(Stage.TRANSFER_SET, 1, 2, "rows")
    context.progress(Stage.TRAIN, 1, 2, "epochs", may_stop=False)
    assert [message.progress.done for message in sent if message.progress] == [1, 1]


# --- the lease ---------------------------------------------------------------------------------------------


@pytest.fixture
def held(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> MemoryJobStore:
    """The record in which the context's attempt holds the lease."""
    monkeypatch.setattr("services.worker.stages.context._LOOK_AGAIN_S", 0.01)
    jobs = MemoryJobStore()
    jobs.submit(context.job_id, context.order.spec)
    assert jobs.acquire(context.job_id, 60, 3) is not None
    context.jobs = jobs
    return jobs


def test_who_holds_the_lease_may_publish(context: JobContext, held: MemoryJobStore):
    context.need_lease()


@pytest.mark.parametrize("end", ["cancelled", "given to another", "unknown"])
def test_whose_job_is_not_theirs_any_more_leaves_in_place_of_publishing(
    context: JobContext, held: MemoryJobStore, end: str
):
    if end == "cancelled":
        held.cancelled(context.job_id, 1)
    elif end == "given to another":
        held.release(context.job_id, 1)
        assert held.acquire(context.job_id, 60, 3) is not None
    else:
        context.jobs = MemoryJobStore()
    with pytest.raises(JobStopped):
        context.need_lease()


def test_whose_job_is_to_be_cancelled_waits_until_the_supervisor_stops_them(
    context: JobContext, held: MemoryJobStore
):
    held.request_cancel(context.job_id)
    threading.Timer(0.1, context.stop.set).start()
    with pytest.raises(JobStopped):
        context.need_lease()
    assert context.stop.is_set()


def test_while_the_record_does_not_answer_nothing_is_published(
    context: JobContext, held: MemoryJobStore, monkeypatch: pytest.MonkeyPatch
):
    look, asked = held.look, []

    def away_twice(job_id: str, epoch: int) -> Signal:
        asked.append(epoch)
        if len(asked) < 3:
            raise JobStoreUnavailable("it is away")
        return look(job_id, epoch)

    monkeypatch.setattr(held, "look", away_twice)
    context.need_lease()
    assert asked == [1, 1, 1]


def test_the_estimate_counts_only_work_done_since_the_stage_began():
    """A resumed stage starts at 50 of 100: what an earlier attempt did says nothing about today's pace."""
    clock = StageClock(began=0.0)
    assert clock.eta_s(50, 100) is None
    estimate = clock.eta_s(60, 100)
    now = time.monotonic()
    assert estimate == pytest.approx(now / 10 * 40, rel=0.01)


# --- child jobs --------------------------------------------------------------------------------------------


def specs(*names: str) -> list[JobSpec]:
    return [TeacherSpec(name=name, dataset="mnist-5k") for name in names]


def ended(number: int, state: JobState = JobState.SUCCEEDED, failure: Failure | None = None) -> ChildJob:
    result = JobResult(artefact=f"train-{number}") if state is JobState.SUCCEEDED else None
    return ChildJob(id=f"j-1-{number:03}", kind="teacher", state=state, result=result, failure=failure)


def after(context: JobContext, *children: ChildJob) -> JobContext:
    """The context of the attempt that runs when these children have ended."""
    order = context.order.model_copy(update={"children": children})
    return JobContext(order, context.settings, context.store, context.send)


def asked(sent: list[ChildMessage]) -> list[str]:
    return [message.child.name for message in sent if message.child is not None]


def test_children_that_were_not_made_are_asked_for_and_the_attempt_leaves(
    context: JobContext, sent: list[ChildMessage]
):
    with pytest.raises(JobWaits):
        context.children(specs("a", "b"))
    assert asked(sent) == ["a", "b"]


def test_children_that_succeeded_are_returned_in_the_order_of_the_plan(
    context: JobContext, sent: list[ChildMessage], tmp_path: Path
):
    context = after(context, ended(0), ended(1))
    first, second = context.children(specs("a", "b"))
    assert (first.id, second.id) == ("j-1-000", "j-1-001")
    assert sent == []
    assert context.child_files(second).directory == tmp_path / "store" / "jobs" / "j-1-001"


def test_a_second_plan_is_asked_for_behind_the_first(context: JobContext, sent: list[ChildMessage]):
    context = after(context, ended(0), ended(1))
    assert len(context.children(specs("a", "b"))) == 2
    with pytest.raises(JobWaits):
        context.children(specs("c"))
    assert asked(sent) == ["c"]
    context = after(context, ended(0), ended(1), ended(2))
    context.children(specs("a", "b"))
    assert [child.id for child in context.children(specs("c"))] == ["j-1-002"]


def test_no_children_are_no_reason_to_wait(context: JobContext):
    assert context.children([]) == ()


def test_the_failure_of_a_child_is_told_with_its_reason_though_a_sibling_before_it_was_cancelled(
    context: JobContext, sent: list[ChildMessage]
):
    failure = Failure(code="diverged", detail="the loss is nan in epoch 2", remedy="Lower the learning rate.")
    context = after(context, ended(0, JobState.CANCELLED), ended(1, JobState.FAILED, failure))
    with pytest.raises(ChildFailed, match=r"'j-1-001' .* the loss is nan in epoch 2 \(diverged\)") as raised:
        context.children(specs("a", "b"))
    assert raised.value.remedy == "Lower the learning rate."
    assert sent == []


def test_a_cancelled_child_fails_its_parent(context: JobContext):
    context = after(context, ended(0), ended(1, JobState.CANCELLED))
    with pytest.raises(ChildFailed, match=r"'j-1-001' .* was cancelled"):
        context.children(specs("a", "b"))


def test_more_children_than_one_job_may_make_are_refused_before_any_is_made(
    context: JobContext, sent: list[ChildMessage]
):
    with pytest.raises(TooManyChildren, match="1,001 child jobs"):
        context.children(specs("a") * (MOST_CHILDREN + 1))
    assert sent == []
