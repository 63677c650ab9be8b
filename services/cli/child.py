"""One child process of the stack: started tied to us, watched, stopped in order, its output in a log file."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from services.cli import tether
from services.cli.errors import StackFailed
from services.cli.guard import Guard

_POLL_S: Final = 0.05
_TAIL_LINES: Final = 12
_LONGEST_LINE: Final = 300


class Child:
    """A process of the stack.

    Args:
        name: what people call it; its log is `<name>.log`.
        command: program and arguments; the program by its full path.
        environment: the whole environment of the process.
        log: the file that takes standard output and standard error.
        guard: is told of the process group as soon as there is one, and once it is gone.
        ready: says whether the process does its work; asked again and again while it starts.
        grace_s: from SIGTERM to SIGKILL, in seconds.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        guard: Guard,
        ready: Callable[["Child"], bool],
        grace_s: float,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._guard = guard
        self._ready = ready
        self._grace_s = grace_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, also the id of its group; None before the first start."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process, again where it ended.

        It has a session of its own, so that Ctrl-C reaches only the one who supervises.
        """
        self.sweep()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        tied = [sys.executable, "-I", "-S", str(Path(tether.__file__)), str(os.getpid()), *self._command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own services, no shell
                tied,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard.add(self._process.pid)

    def exit_status(self) -> int | None:
        """Return how it ended (negative: by this signal), or None while it runs."""
        return self._process.poll() if self._process is not None else None

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return once it does its work.

        Raises:
            StackFailed: it ended, or was not ready in time; the last lines of its log are in the message.
        """
        deadline = time.monotonic() + timeout_s
        while not self._ready(self):
            status = self.exit_status()
            if status is not None:
                raise self.failure(f"{self.name} ended with status {status} while it started")
            if time.monotonic() > deadline:
                raise self.failure(f"{self.name} was not ready within {timeout_s:g} s")
            time.sleep(_POLL_S)

    def failure(self, what: str) -> StackFailed:
        """Return the error that tells this together with the last lines of the log."""
        return StackFailed(
            f"{self.name}-failed", what, f"Its log is {self.log}. It ends with:", details=self.tail()
        )

    def tail(self) -> str:
        """Return the last lines of the log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            return ""
        return "\n".join(line[:_LONGEST_LINE] for line in lines)

    def stop(self, in_a_hurry: Callable[[], bool]) -> None:
        """Ask it to end, wait, and kill what is left of its process group."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            deadline = time.monotonic() + self._grace_s
            while process.poll() is None and time.monotonic() < deadline and not in_a_hurry():
                time.sleep(_POLL_S)
        self.sweep()
        process.wait()

    def sweep(self) -> None:
        """Kill what is left of its process group, which may outlive its leader."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._guard.forget(self._process.pid)
