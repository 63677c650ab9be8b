"""The settings: defaults, the environment, and what cannot be."""

import pytest

from services.teacher.settings import TeacherSettings
from shared.settings import load


def test_a_request_larger_than_the_queue_is_refused_at_start(monkeypatch, capsys):
    monkeypatch.setenv("TEACHER_MAX_ROWS", "100")
    monkeypatch.setenv("TEACHER_QUEUE_ROWS", "99")
    with pytest.raises(SystemExit) as stopped:
        load(TeacherSettings)
    assert stopped.value.code == 2
    assert "TEACHER_MAX_ROWS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TEACHER_PORT", "80800"),
        ("TEACHER_DEVICE", "gpu"),
        ("TEACHER_MAX_BATCH_ROWS", "0"),
        ("TEACHER_THREADS", "two"),
        ("TEACHER_BULK_MS", "0"),
        ("TEACHER_COMPANY_MS", "-1"),
    ],
)
def test_a_wrong_setting_is_told_by_its_variable(monkeypatch, capsys, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit):
        load(TeacherSettings)
    assert variable in capsys.readouterr().err


def test_the_environment_is_read_under_the_services_prefix(monkeypatch):
    monkeypatch.setenv("TEACHER_MAX_BATCH_ROWS", "64")
    assert load(TeacherSettings).max_batch_rows == 64
