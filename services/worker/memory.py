"""How much memory a training process takes, and whether that is more than it may.

The supervisor looks, in place of a limit of the kernel's: RLIMIT_AS and RLIMIT_DATA count what CUDA and
thread stacks reserve and never touch, and a cgroup of one's own is not to be had in a container. What is
taken between two looks is for the limit of the container: there the kernel kills the training process first
(`launch.py`).
"""

import re
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

_LOOK_S = 0.1
_HELD = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class MemoryWatch:
    """Watches one process and all that it started; without a limit only for what the kernel kills."""

    def __init__(self, pid: int, limit_bytes: int | None) -> None:
        self.peak_bytes = 0
        """The most that was seen, in bytes; 0 without a limit, for then nobody looks."""
        self.limit_bytes = limit_bytes
        self._pid = pid
        self._oom_kills = oom_kills()
        self._next_look = 0.0

    def is_over(self) -> bool:
        """Look, where the last look is a moment old, and tell whether more was ever held than allowed."""
        now = time.monotonic()
        if self.limit_bytes is not None and now >= self._next_look:
            self._next_look = now + _LOOK_S
            self.peak_bytes = max(self.peak_bytes, held_bytes(self._pid))
        return self.limit_bytes is not None and self.peak_bytes > self.limit_bytes

    def kernel_killed(self) -> bool:
        """Tell whether the kernel has killed anything for lack of memory since the watch began."""
        return oom_kills() > self._oom_kills


def held_bytes(pid: int) -> int:
    """Return the bytes of main memory that a process and its descendants hold; 0 where it is gone.

    Mapped files do not count: the kernel drops their pages where it needs room. Pages that a fork shares with
    its parent, and shared memory, count for each that has them: with helper processes that is more than they
    hold together. The exact share would cost the kernel a walk over all pages, ten times a second.
    """
    if sys.platform != "linux":
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])
        return 0
    held, pids = 0, [pid]
    while pids:
        process_dir = Path("/proc") / str(pids.pop())
        # Any of them may end meanwhile.
        with suppress(OSError):
            held += 1024 * sum(map(int, _HELD.findall((process_dir / "status").read_text())))
            for task in (process_dir / "task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return held


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """Return how many processes this kernel has killed for lack of memory; 0 where it does not tell."""
    with suppress(OSError):
        found = _OOM_KILLS.search(vmstat.read_text())
        return int(found[1]) if found else 0
    return 0


def in_words(size_bytes: int) -> str:
    """Return a size as people read it."""
    return (
        f"{size_bytes / (1 << 20):.0f} MiB" if size_bytes < 1 << 30 else f"{size_bytes / (1 << 30):.1f} GiB"
    )
