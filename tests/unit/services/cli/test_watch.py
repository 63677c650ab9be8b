"""What is shown of a job while it runs."""

import io

import pytest
from rich.console import Console

from services.cli.watch import display, duration, stages_of
from shared.contracts.jobs import JobState, JobView
from shared.contracts.specs import TeacherSpec
from tests.unit.services.cli.fake_gateway import NOON, SPEC, job_events

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
