"""The secrets of the containers: made once, each where it belongs."""

import os
import re
import stat
from pathlib import Path

import pytest

from services.cli.secret_files import write_private
from services.cli.secrets import main, make
from shared.adapters.redis_acl import RULES, acl_file


def modes(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()
    }


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_all_are_made_and_a_second_time_changes_none(tmp_path: Path):
    make(tmp_path)
    made = files(tmp_path)
    assert sorted(made) == [
        "gateway/admin_key", "gateway/redis_url", "gateway/teacher_key", "redis/health", "redis/users.acl",
        "teacher/key", "worker/redis_url", "worker/teacher_key",
    ]  # fmt: skip
    make(tmp_path)
    assert files(tmp_path) == made


def test_each_secret_is_long_and_another_but_the_key_that_the_teacher_is_asked_with(tmp_path: Path):
    make(tmp_path)
    made = files(tmp_path)
    assert made["teacher/key"] == made["worker/teacher_key"] == made["gateway/teacher_key"]
    found = [re.search(r"[\w-]{43}", text) for name, text in made.items() if name != "redis/users.acl"]
    assert all(found)
    assert len({one[0] for one in found if one}) == 5
    assert made["gateway/redis_url"].startswith("redis://gateway:")
    assert made["worker/redis_url"].startswith("redis://worker:")


def test_what_redis_reads_holds_no_password(tmp_path: Path):
    make(tmp_path)
    users = (tmp_path / "redis" / "users.acl").read_text()
    for url in ("worker/redis_url", "gateway/redis_url"):
        password = re.search(r":([\w-]{43})@", (tmp_path / url).read_text())
        assert password is not None
        assert password[1] not in users
    assert "user default reset off ~* &* +@all" in users


def test_secrets_of_ones_own_are_used(tmp_path: Path):
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "redis_url").write_text(
        "redis://worker:own%2Fpassword-of-32-characters-or-more@redis:6379/0"
    )
    make(tmp_path)
    given = dict.fromkeys(RULES, "x") | {"worker": "own/password-of-32-characters-or-more"}
    (line,) = [line for line in acl_file(given).splitlines() if line.startswith("user worker ")]
    assert line in (tmp_path / "redis" / "users.acl").read_text()


def test_keys_that_were_removed_are_made_anew_and_all_else_stays(tmp_path: Path):
    make(tmp_path)
    before = files(tmp_path)
    removed = {"gateway/admin_key", "teacher/key", "worker/teacher_key", "gateway/teacher_key"}
    for name in removed:
        (tmp_path / name).unlink()
    make(tmp_path)
    after = files(tmp_path)
    assert {name for name in before if before[name] != after[name]} == removed
    assert after["teacher/key"] == after["worker/teacher_key"] == after["gateway/teacher_key"]


def test_only_redis_may_read_what_another_user_made(tmp_path: Path):
    """It runs as a user of its own; with a folder of the host every other user would read along."""
    make(tmp_path)
    found = modes(tmp_path)
    assert {name for name, mode in found.items() if mode != 0o400} == {"redis/health", "redis/users.acl"}
    assert (found["redis/health"], found["redis/users.acl"]) == (0o444, 0o444)


@pytest.mark.parametrize("name", ["redis/health", "teacher/key", "worker/teacher_key", "gateway/admin_key"])
@pytest.mark.parametrize("text", ["", "\n", "x", "a" * 31])
def test_a_secret_that_can_be_guessed_is_refused(
    tmp_path: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert f"{name} holds a secret of {len(text.strip())} characters, and 32 are the least" in said
    assert "remove the file to have one made" in said
    assert "a" * 31 not in said


def test_a_short_password_in_an_address_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "redis_url").write_text("redis://gateway:hunter2@a-host-of-a-long-name:6379/0")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    said = capsys.readouterr().err
    assert "gateway/redis_url holds a secret of 7 characters" in said
    assert "hunter2" not in said


def test_a_secret_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes")
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        done.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_private(tmp_path / "key", "words")
    assert done == ["5 bytes", "name", "folder"]


@pytest.mark.parametrize("url", ["redis://redis:6379/0", "redis://gateway:secret@redis:6379/0"])
def test_an_address_without_the_password_of_its_role_is_told(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "redis_url").write_text(url)
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "worker/redis_url must hold redis://worker:PASSWORD@HOST" in said
    assert "secret" not in said.replace("the secrets", "")
