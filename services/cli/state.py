"""The state directory as the stack keeps it: one lock, one `stack.json` that says where things listen."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from services.cli.errors import StackFailed
from shared.artefacts.files import write_atomic
from shared.contracts.base import Contract


class StackState(Contract):
    """`stack.json`: addresses and process ids of a running stack."""

    pid: int
    """Of the process that supervises the others."""
    state_dir: str
    gateway_url: str
    teacher_url: str
    redis_url: str
    """Without its password, where it has one."""
    pids: dict[str, int]
    started_at: datetime


def stack_file(state_dir: Path) -> Path:
    """Return where a running stack says where it listens."""
    return state_dir / "stack.json"


def write_stack(state_dir: Path, stack: StackState) -> None:
    """Write `stack.json`."""
    write_atomic(stack_file(state_dir), stack.model_dump_json(indent=2).encode())


def read_stack(state_dir: Path) -> StackState | None:
    """Return the stack that runs on this state directory, or None where none does."""
    try:
        stack = StackState.model_validate_json(stack_file(state_dir).read_bytes())
    except (OSError, ValidationError):
        return None
    # The file of a stack that was killed stays behind; its lock does not.
    return stack if _is_locked(state_dir) else None


@contextmanager
def only_stack(state_dir: Path) -> Iterator[None]:
    """Hold the state directory for one stack: the lock goes with the process, however that ends.

    Raises:
        StackFailed: another stack runs on the same state directory.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(_lock_file(state_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _take(descriptor):
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StackFailed(
                "stack-already-running",
                f"a stack (process {holder}) already runs on {state_dir}",
                "Stop it, or set IMAGO_STATE_DIR to another directory.",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock_file(state_dir: Path) -> Path:
    return state_dir / "stack.lock"


def _take(descriptor: int) -> bool:
    # Tried again: a command that asks whether a stack runs holds a shared lock for an instant.
    for _ in range(20):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def _is_locked(state_dir: Path) -> bool:
    try:
        descriptor = os.open(_lock_file(state_dir), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
