"""The key between the parts of a stack: made once, read by its owner alone, never in the place of another."""

import stat
from pathlib import Path

import pytest

from services.cli.settings import CliSettings
from services.cli.teacher_key import environments


@pytest.fixture
def keys_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the state directory of a stack that is to run with keys."""
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("IMAGO_AUTH", "keys")
    for name in ("TEACHER_KEY_FILE", "IMAGO_ADMIN_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


def test_worker_and_gateway_send_the_key_that_the_teacher_lets_in(keys_on: Path):
    told = environments(CliSettings())
    file = str(keys_on / "teacher_key")
    assert told["teacher"] == {"IMAGO_ADMIN_KEY_FILE": file}
    assert told["worker"] == told["gateway"] == {"TEACHER_KEY_FILE": file}


def test_the_key_is_kept_and_only_its_owner_reads_it(keys_on: Path):
    environments(CliSettings())
    file = keys_on / "teacher_key"
    key = file.read_text()
    assert len(key.strip()) == 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    environments(CliSettings())
    assert file.read_text() == key


def test_a_key_that_was_named_is_left_alone(keys_on: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    named = tmp_path / "named"
    named.write_text("n" * 43)
    monkeypatch.setenv("TEACHER_KEY_FILE", str(named))
    assert environments(CliSettings()) == {}
    assert not (keys_on / "teacher_key").exists()


def test_without_keys_none_is_made(keys_on: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IMAGO_AUTH", "off")
    assert environments(CliSettings()) == {}
    assert not keys_on.exists()
