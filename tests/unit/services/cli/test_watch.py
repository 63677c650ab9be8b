"""What is shown of a job while it runs."""

import io

import pytest
from rich.console import Console

from services.cli import watch as watching
from services.cli.watch import display, duration, stages_of, watch
from shared.client import Client
from shared.contracts.jobs import JobEvent, JobEventKind, JobState, JobView, Progress, Stage
from shared.contracts.specs import SweepSpec, TeacherSpec
from tests.support.fake_gateway import NOON, SPEC, FakeGateway, job_events

JOB = JobView(id="j-0", state=JobState.RUNNING, spec=SPEC, created_at=NOON)


def shown(job: JobView, *, terminal: bool, until: int | None = None) -> str:
    """Return what is on the screen after the events up to `until`."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, color_system=None)
    with display(job, console) as display_:
        for event in job_events(JobState.SUCCEEDED)[:until]:
            display_.show(event)
    return file.getvalue()


def test_a_terminal_shows_a_bar_for_every_stage():
    text = shown(JOB, terminal=True)
    for stage in ("check", "transfer set", "train", "evaluate", "export", "report"):
        assert stage in text
    assert "━" in text


def test_a_bar_shows_the_estimated_end_and_then_the_time_taken():
    running = shown(JOB, terminal=True, until=4 + 30)
    assert "30/60 epochs" in running
    assert "ETA 30 s" in running
    assert "took 1 min 01 s" in shown(JOB, terminal=True)


def test_a_teacher_job_has_no_transfer_set():
    teacher = JOB.model_copy(update={"spec": TeacherSpec(name="t", dataset="d")})
    assert "transfer_set" not in [stage.value for stage in stages_of(teacher)]
    assert len(stages_of(JOB)) == 6


def parent_events() -> list[JobEvent]:
    told = [
        (JobEventKind.STATE, {"state": "running", "epoch": 1, "attempts": 1}),
        (
            JobEventKind.STATE,
            {"state": "waiting", "epoch": 1, "attempts": 0, "children": ["j-0-000", "j-0-001"]},
        ),
        (JobEventKind.PROGRESS, Progress(stage=Stage.TRAIN, done=0, total=2, unit="jobs")),
        (JobEventKind.PROGRESS, Progress(stage=Stage.TRAIN, done=1, total=2, unit="jobs", eta_s=30.0)),
    ]
    return [
        JobEvent(
            id=str(i),
            kind=kind,
            at=NOON,
            data=data if isinstance(data, dict) else data.model_dump(mode="json"),
        )
        for i, (kind, data) in enumerate(told, start=1)
    ]


def child(number: int, done: int) -> JobView:
    progress = Progress(stage=Stage.TRAIN, done=done, total=60, unit="epochs", eta_s=12.0)
    return JOB.model_copy(update={"id": f"j-0-{number:03}", "parent": "j-0", "progress": progress})


@pytest.mark.parametrize("terminal", [True, False])
def test_a_parent_that_waits_is_shown_with_the_children_that_run(terminal: bool):
    file = io.StringIO()
    parent = JOB.model_copy(update={"spec": SweepSpec(name="sweep", teacher="t", dataset="d")})
    with display(parent, Console(file=file, force_terminal=terminal, width=120, color_system=None)) as shown_:
        for event in parent_events():
            shown_.show(event)
        shown_.show_children([child(0, 30), child(1, 31)])
        shown_.show_children([child(1, 45)])
    text = file.getvalue()
    assert "waiting for 2 jobs" in text
    assert "1/2 jobs" in text
    for words in ("000", "001", "30/60 epochs", "45/60 epochs", "ETA 12 s"):
        assert words in text


def test_a_child_that_ended_has_no_bar_any_more():
    file = io.StringIO()
    with display(JOB, Console(file=file, force_terminal=True, width=120, color_system=None)) as shown_:
        shown_.show_children([child(0, 30), child(1, 30)])
        shown_.show_children([child(1, 60)])
    last_picture = file.getvalue().rpartition("check")[2]
    assert "001 train" in last_picture
    assert "000 train" not in last_picture


def test_children_are_looked_at_while_their_parent_waits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watching, "CHILDREN_EVERY_S", 0.01)
    gateway = FakeGateway()
    job = gateway.add_job(name="small", teacher="t", dataset="d")
    waits, *rest = parent_events()[1:]
    gateway.events = [waits, *rest, job_events(JobState.SUCCEEDED)[-1].model_copy(update={"id": "9"})]
    gateway.jobs["j-0-001"] = child(1, 30)
    gateway.pause_s = 0.2
    file = io.StringIO()
    with Client("http://gateway.test", transport=gateway.transport()) as client:
        ended = watch(client, job, Console(file=file, width=120))
    assert ended.state is JobState.SUCCEEDED
    assert "001  train  30/60 epochs  ETA 12 s" in file.getvalue()
    asked = [request.url.params for request in gateway.seen if "parent" in request.url.params]
    assert asked
    assert {(one["parent"], one["state"]) for one in asked} == {(job.id, "running")}


def test_a_pause_is_told_and_how_it_ends():
    file = io.StringIO()
    with display(JOB, Console(file=file, width=120, color_system=None)) as display_:
        for number, data in enumerate(
            (
                {"state": "running", "epoch": 1, "attempts": 1, "pause_requested": True},
                {"state": "paused", "epoch": 1, "attempts": 0},
            )
        ):
            display_.show(JobEvent(id=f"0-{number}", kind=JobEventKind.STATE, at=NOON, data=data))
    first, second = file.getvalue().splitlines()
    assert first.endswith("running, to pause")
    assert second.endswith("paused; `imago jobs resume` goes on")


def test_a_log_shows_no_control_characters():
    assert "\x1b" not in shown(JOB, terminal=False)


def test_notes_with_markup_are_only_text():
    event = job_events(JobState.SUCCEEDED)[-2].model_copy(update={"data": {"text": "see [/bold] here"}})
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=120, color_system=None)
        with display(JOB, console) as display_:
            display_.show(event)
        assert "see [/bold] here" in file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (34.4, "34 s"),
        (59.7, "1 min 00 s"),
        (125, "2 min 05 s"),
        (12000, "3 h 20 min"),
    ],
)
def test_times_are_said_in_words(seconds: float, words: str):
    assert duration(seconds) == words
