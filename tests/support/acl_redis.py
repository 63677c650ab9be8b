"""A real Redis that lets in the users of `shared.adapters.redis_acl` and nobody else, as in containers."""

import subprocess
from pathlib import Path
from typing import Any

import redis

from shared.adapters.redis_acl import RULES, acl_file
from tests.support.redis_server import _die_with_parent, find_redis_server, free_port
from tests.support.worker_process import eventually

ADMIN = "test-admin"
"""Beside the users of the product: looks into ACL LOG."""


class AclRedis:
    """One server. The password of each user is its name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        users = directory / "users.acl"
        users.write_text(acl_file({role: role for role in RULES}) + f"user {ADMIN} on >{ADMIN} ~* &* +@all\n")
        self.port = free_port()
        self.admin = self.client(ADMIN)
        self.start()

    def start(self) -> None:
        """Start, with what was written before."""
        users = self._directory / "users.acl"
        self.process = subprocess.Popen(
            [
                *(find_redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
                *("--appendonly", "yes", "--appendfsync", "always"),
                *("--dir", str(self._directory), "--aclfile", str(users)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )
        eventually(self._answers, 20, "Redis answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, "redis-server ended: it may refuse a rule"
        try:
            return bool(self.admin.ping())
        except redis.RedisError:
            return False

    def url(self, user: str) -> str:
        return f"redis://{user}:{user}@127.0.0.1:{self.port}/0"

    def client(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user), decode_responses=True, socket_timeout=5)

    def denials(self) -> list[dict[str, Any]]:
        """Return what was denied. What a client calls itself is no matter: it goes on without."""
        return [one for one in self.admin.acl_log() if one["object"] not in ("client", "client|setinfo")]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)

    def close(self) -> None:
        self.admin.close()
        self.stop()
