"""The training process as a real process; what it runs is `tests.support.training_stub`."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from services.worker.child import Lines, TrainingProcess, cause_of_death
from services.worker.protocol import EXIT_FAILED, EXIT_STOPPED, ChildMessage, ChildOrder, to_line
from shared.contracts.jobs import MOST_CHILDREN, ChildJob, JobResult, JobState
from shared.contracts.training import Budget
from tests.support.jobs import teacher_spec

pytestmark = pytest.mark.integration
STUB = "tests.support.training_stub"


@pytest.fixture(autouse=True)
def _state_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path))


def order(name: str, epochs: int = 1) -> ChildOrder:
    return ChildOrder(
        job_id="j-1", epoch=1, attempts=1, spec=teacher_spec(name, budget=Budget(epochs=epochs))
    )


def heard(child: TrainingProcess, most_s: float = 10) -> tuple[list[ChildMessage], int]:
    messages: list[ChildMessage] = []
    deadline = time.monotonic() + most_s
    while not child.exited():
        assert time.monotonic() < deadline
        messages += child.read(0.05)
    last, status = child.end()
    return messages + last, status


def test_every_message_is_heard_and_what_is_none_is_not(caplog: pytest.LogCaptureFixture) -> None:
    with TrainingProcess(STUB, order("chatty")) as child:
        messages, status = heard(child)
    assert status == 0
    assert [message.progress is not None for message in messages] == [True, False]
    assert messages[-1].result is not None
    assert any("too long" in record.message for record in caplog.records)


def test_libraries_in_the_child_ask_no_hub_unless_the_worker_was_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for given, expected in ((None, "1"), ("0", "0")):
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        if given is not None:
            monkeypatch.setenv("HF_HUB_OFFLINE", given)
        with TrainingProcess(STUB, order("candid")) as child:
            messages, _ = heard(child)
        assert f"offline: {expected}" in [message.note for message in messages]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 16, 1 << 22])
def test_a_line_that_is_too_long_is_dropped_wherever_the_reads_cut_it(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("services.worker.child.LONGEST_LINE_BYTES", 2_000)
    notes = [ChildMessage(note=name) for name in ("before", "after")]
    # Its end reads like a message, which it must not be taken for.
    long = b"x" * 5_000 + to_line(ChildMessage(note="forged"))
    said = to_line(notes[0]) + long + to_line(notes[1])
    lines = Lines()
    heard = [
        message
        for start in range(0, len(said), chunk_bytes)
        for message in lines.feed(said[start : start + chunk_bytes])
    ]
    assert heard == notes
    assert [record.message for record in caplog.records] == ["dropped a line that is too long"]


def test_an_order_with_the_ends_of_a_thousand_children_does_not_hold_its_supervisor_up() -> None:
    ends = tuple(
        ChildJob(
            id=f"j-1-{number:03}", kind="teacher", state=JobState.SUCCEEDED, result=JobResult(teacher="t")
        )
        for number in range(MOST_CHILDREN)
    )
    long = order("quick").model_copy(update={"children": ends})
    began = time.monotonic()
    with TrainingProcess(STUB, long) as child:
        started_s = time.monotonic() - began
        messages, status = heard(child)
    # Nearly all of the time is the child's imports, before it reads.
    assert started_s < 0.5 * (time.monotonic() - began)
    assert status == 0
    assert messages[-1].result is not None


def test_a_failure_comes_with_its_status() -> None:
    with TrainingProcess(STUB, order("wrong")) as child:
        messages, status = heard(child)
    assert status == EXIT_FAILED
    assert messages[-1].failure is not None


def test_a_death_by_signal_is_told_by_its_name() -> None:
    with TrainingProcess(STUB, order("poison")) as child:
        _, status = heard(child)
    assert status == -signal.SIGKILL
    assert "SIGKILL" in cause_of_death(status)
    assert "memory" in cause_of_death(status)
    assert "exit status 3" in cause_of_death(3)


def test_a_module_that_does_not_exist_is_a_death_and_no_hang() -> None:
    with TrainingProcess("tests.support.no_such_module", order("quick")) as child:
        messages, status = heard(child)
    assert messages == []
    assert status == 1


def test_a_child_stops_when_asked() -> None:
    with TrainingProcess(STUB, order("slow", 600)) as child:
        while not child.read(0.1):
            assert not child.exited()
        child.stop()
        _, status = heard(child)
    assert status == EXIT_STOPPED


def test_leaving_early_leaves_no_process_of_the_group_behind() -> None:
    with TrainingProcess(STUB, order("deaf", 600)) as child:
        while not [message for message in child.read(0.1) if message.progress is not None]:
            assert not child.exited()
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        assert len(family) == 2
        assert os.getpgid(child.pid) == child.pid
    gone, alive = psutil.wait_procs(family, timeout=2)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert len(gone) >= 1
