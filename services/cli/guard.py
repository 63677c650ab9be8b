"""Outlives the stack by an instant: where that goes without a word, kills the process groups that it leaves.

`tether.py` ties the children themselves; this one is for their own children, such as the processes that share
the gateway's port, which the kernel would leave alone. It reads `+PID` and `-PID`, one a line, from a pipe
that only the stack holds; its end means that the stack is gone.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path


class Guard:
    """The stack's end of the pipe."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", str(Path(__file__))]
        # A session of its own: Ctrl-C is not for it.
        self._process = subprocess.Popen(  # noqa: S603  # this very file, no shell
            command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True
        )

    def add(self, group: int) -> None:
        """Have this process group killed where the stack goes without a word."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Leave this group alone from now on: it has ended."""
        self._tell(f"-{group}\n")

    def dismiss(self) -> None:
        """End the guard."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # Where somebody killed the guard, the children themselves are still tied.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode())


def main() -> None:
    """Keep the list of groups until the pipe ends, then kill those that are on it."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
