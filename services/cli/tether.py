"""Ties a process to the one that started it, then becomes the command: `tether.py PARENT_PID COMMAND…`.

On Linux the kernel kills the command the moment its parent is gone, even by `kill -9`. This runs between fork
and exec in a fresh interpreter: a `preexec_fn` is not safe where the parent has threads. Elsewhere than on
Linux the command runs untied. No imports of ours: this must start in a blink.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Tie this process to its parent and run the command in its place."""
    parent, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            sys.exit("the process that started this is gone already")
    os.execv(command[0], command)  # noqa: S606  # the command is ours, no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
