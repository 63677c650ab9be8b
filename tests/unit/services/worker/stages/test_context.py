import time
from pathlib import Path
from threading import Event

import pytest

from services.worker.protocol import ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext, JobStopped, StageClock, seconds_of
from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import Stage
from shared.contracts.specs import TeacherSpec


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


def test_progress_leaves_when_the_supervisor_asked_to_stop(context: JobContext, sent: list[ChildMessage]):
    context.stop = Event()
    context.stop.set()
    with pytest.raises(JobStopped):
        context.progress(Stage.TRANSFER_SET, 1, 2, "rows")
    context.progress(Stage.TRAIN, 1, 2, "epochs", may_stop=False)
    assert [message.progress.done for message in sent if message.progress] == [1, 1]


def test_the_estimate_counts_only_work_done_since_the_stage_began():
    """A resumed stage starts at 50 of 100: what an earlier attempt did says nothing about today's pace."""
    clock = StageClock(began=0.0)
    assert clock.eta_s(50, 100) is None
    estimate = clock.eta_s(60, 100)
    now = time.monotonic()
    assert estimate == pytest.approx(now / 10 * 40, rel=0.01)
