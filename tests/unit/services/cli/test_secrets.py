"""The secrets of the containers: made once, each where it belongs."""

import re
from pathlib import Path

import pytest

from services.cli.secrets import main, make
from shared.adapters.redis_acl import RULES, acl_file


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
    (tmp_path / "worker" / "redis_url").write_text("redis://worker:own%2Fpassword@redis:6379/0")
    make(tmp_path)
    given = dict.fromkeys(RULES, "x") | {"worker": "own/password"}
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
