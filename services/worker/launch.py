"""Starts a module as a process that dies with its worker: `python -m services.worker.launch PID MODULE`.

A worker that is killed can no longer stop its child, and a child that outlives it would train on beside the
one that takes the job over. The kernel is asked to kill the child, before anything heavy is imported.
"""

import contextlib
import ctypes
import os
import runpy
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the module."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # Where memory runs out, this process goes first and not the worker; a kernel may forbid even that.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")
    # The parent may have died before the kernel was asked.
    if os.getppid() != parent:
        raise SystemExit(1)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
