"""Files and folders that are either whole or not there at all, and the digests that name them.

Whatever is written here goes to a temporary neighbour first, reaches the disk (fsync), and only then gets
its name. A process killed at any point leaves at most a temporary, which the next one clears away:
temporaries are locked (flock) while their writer lives, and the kernel drops the lock with the process.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{16}\.tmp$")


# --- digests -----------------------------------------------------------------------------------------------


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, reading it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of `value`: keys sorted, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: a number is NaN or infinite, which JSON has no word for.
        TypeError: something in `value` is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`."""
    return sha256_bytes(canonical_json(value))


# --- one file ----------------------------------------------------------------------------------------------


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Return what changes whenever the file is replaced; None where it is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a few times a second, so without a detour
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that a reader sees whole, old or new, and never in part; replaces what is there.

    Raises:
        OSError: the disk is full or the folder is missing; what was there before is untouched.
    """
    with _temporary_file(path, data) as temporary:
        temporary.replace(path)
    sync_directory(path.parent)


def write_once(path: Path, data: bytes) -> bool:
    """Write a file as `write_atomic` does unless it exists; return whether this call wrote it.

    Of several processes that write at once exactly one wins, and the file never changes afterwards.
    """
    with _temporary_file(path, data) as temporary:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
    sync_directory(path.parent)
    return True


@contextmanager
def _temporary_file(path: Path, data: bytes) -> Iterator[Path]:
    """Yield a synced temporary beside `path` with `data` in it; it is gone afterwards."""
    while True:
        temporary = _temporary_name(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:
                continue  # another process swept it between its birth and its lock
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(data)
            os.fsync(descriptor)
            yield temporary
            return
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
            os.close(descriptor)


# --- a whole folder ----------------------------------------------------------------------------------------


def publish_directory(final: Path, build: Callable[[Path], None]) -> bool:
    """Build a folder aside and give it its name when it is whole.

    Args:
        final: the folder's name; parents are made.
        build: fills the empty folder that it is given.

    Returns:
        True if this call published the folder; False if `final` existed already, and is as it was.

    Raises:
        Exception: whatever `build` raises, after the temporary folder was removed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(final.parent)
    if final.exists():
        return False
    with _temporary_directory(final) as temporary:
        build(temporary)
        _sync_tree(temporary)
        try:
            temporary.rename(final)
        except OSError:
            # The name of a filled folder cannot be taken: somebody else was first.
            if not final.exists():
                raise
            return False
    sync_directory(final.parent)
    return True


@contextmanager
def _temporary_directory(final: Path) -> Iterator[Path]:
    while True:
        temporary = _temporary_name(final)
        temporary.mkdir()
        try:
            descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # swept before it could be locked
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not temporary.exists():
                continue
            yield temporary
            return
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(descriptor)


def remove_directory(directory: Path) -> bool:
    """Remove a folder that a reader sees whole or not at all; return whether it was there.

    It loses its name first. What a process killed afterwards leaves, `sweep_temporaries` clears away.
    """
    temporary = _temporary_name(directory)
    try:
        directory.rename(temporary)
    except FileNotFoundError:
        return False
    sync_directory(directory.parent)
    shutil.rmtree(temporary, ignore_errors=True)
    return True


def sweep_temporaries(directory: Path) -> None:
    """Remove what killed writers left in `directory`; temporaries of living writers stay."""
    for path in directory.iterdir():
        if not _TEMPORARY.match(path.name):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its writer has just finished
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


# --- one at a time -----------------------------------------------------------------------------------------


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` against every other process and thread; a dead holder holds nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# --- helpers -----------------------------------------------------------------------------------------------


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _sync_tree(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for name in names:
            _sync(Path(folder) / name, os.O_RDONLY)
        sync_directory(Path(folder))


def sync_directory(directory: Path) -> None:
    """Let what was made or renamed in the folder outlast a loss of power."""
    _sync(directory, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
