"""Makes the secrets of the containers: `python -m services.cli.secrets FOLDER`, once before the others start.

    FOLDER/redis/users.acl        whom Redis lets in; digests only
    FOLDER/redis/health           the password of the health check, which may PING and nothing else
    FOLDER/teacher/key            the key that the teacher is asked with, of all its scopes
    FOLDER/worker/redis_url       with the password of the user `worker`
    FOLDER/worker/teacher_key     the same key
    FOLDER/gateway/redis_url      with the password of the user `gateway`
    FOLDER/gateway/teacher_key    the same key
    FOLDER/gateway/admin_key      the first key of the API, of the scope `admin`

Each folder is mounted where it is needed and nowhere else. What is there stays: this may run again, and
whoever brings secrets of their own puts them there before. Only `users.acl` is written anew.

What is made can be read by who makes it alone, which in containers is the user of all our services (10001),
but for the folder `redis`: Redis runs as another user.
"""

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from services.cli.secret_files import write_private
from shared.adapters.redis_acl import GATEWAY, HEALTH, WORKER, acl_file

LEAST_CHARACTERS: Final = 32
"""Of a key or a password: of shorter ones the digests in `users.acl` could be tried out."""
_OURS: Final = 0o400
_OF_REDIS: Final = 0o444
_HOST: Final = "redis:6379"


def make(root: Path) -> None:
    """Make what is missing.

    Raises:
        ValueError: an address of Redis has no password, or another user than its role; or what is there is
            too short.
        OSError: a file cannot be read or written.
    """
    passwords = {role: _redis_password(root / role / "redis_url", role) for role in (GATEWAY, WORKER)}
    passwords[HEALTH] = _kept(root / "redis" / "health", secrets.token_urlsafe(32), _OF_REDIS)
    users = root / "redis" / "users.acl"
    text = acl_file(passwords)
    if not users.exists() or users.read_text() != text:
        write_private(users, text, _OF_REDIS)
    key = _kept(root / "teacher" / "key", secrets.token_urlsafe(32))
    for role in (GATEWAY, WORKER):
        _kept(root / role / "teacher_key", key)
    _kept(root / "gateway" / "admin_key", secrets.token_urlsafe(32))


def _redis_password(path: Path, role: str) -> str:
    url = _text(path, f"redis://{role}:{quote(secrets.token_urlsafe(32))}@{_HOST}/0", _OURS)
    parts = urlsplit(url)
    if parts.username != role or not parts.password:
        raise ValueError(f"{path} must hold redis://{role}:PASSWORD@HOST:PORT/0")
    return _long_enough(unquote(parts.password), path)


def _kept(path: Path, new: str, mode: int = _OURS) -> str:
    return _long_enough(_text(path, new, mode), path)


def _text(path: Path, new: str, mode: int) -> str:
    if not path.exists():
        write_private(path, f"{new}\n", mode)
    return path.read_text().strip()


def _long_enough(secret: str, path: Path) -> str:
    if len(secret) < LEAST_CHARACTERS:
        raise ValueError(
            f"{path} holds a secret of {len(secret)} characters, and {LEAST_CHARACTERS} are the least: "
            "put a longer one there (openssl rand -hex 32), or remove the file to have one made"
        )
    return secret


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> None:
    """Make the secrets of a folder; leave with 2 and a line where that cannot be."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m services.cli.secrets FOLDER")
    try:
        make(Path(arguments[0]))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"the secrets cannot be made: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
