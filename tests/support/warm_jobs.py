"""Training processes that are forked from one that has imported everything, for tests with many small jobs.

Importing torch and the kinds of jobs takes 5 s of CPU, more than such a job itself. The worker starts this
module as it starts the real one; it hands its three streams to `warm_jobs`, which forks, and lends it the
exit code. What runs in the fork is `services.worker.training_process`, unchanged.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODULE = "tests.support.warm_jobs"
_PLACE = "IMAGO_TEST_WARM_JOBS"
_ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def warm_jobs(directory: Path, *modules: str) -> Iterator[str]:
    """Import what jobs need, and `modules`, once; yield the module that a worker starts for each job."""
    place = directory / "warm.sock"
    server = subprocess.Popen(
        [sys.executable, "-m", MODULE, str(place), *modules],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdout is not None
    os.environ[_PLACE] = str(place)
    try:
        assert server.stdout.readline() == b"ready\n"
        yield MODULE
    finally:
        del os.environ[_PLACE]
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        server.stdout.close()


def _lend() -> int:
    """Let a fork use the streams of this process; return its exit code."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[_PLACE])
        socket.send_fds(server, [json.dumps(dict(os.environ)).encode()], [0, 1, 2])
        pid = int(server.recv(16))
        signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
        return int(server.recv(16))


def _serve(place: str, modules: list[str]) -> None:
    from services.worker import training_process

    # What torch imports with the first step of an optimiser, 2 s of CPU.
    for module in ("torch._dynamo", *modules):
        importlib.import_module(module)

    # Reaped and not ignored: so their seconds count among those of the tests.
    signal.signal(signal.SIGCHLD, _reap)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
        listening.listen()
        print("ready", flush=True)  # noqa: T201 - what the fixture waits for
        while True:
            client, _ = listening.accept()
            environment, streams, _, _ = socket.recv_fds(client, 2**20, 3)
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                job = os.fork()
                if job == 0:
                    _become(json.loads(environment), streams)
                    code = 1
                    try:
                        code = training_process.main()
                    finally:  # the loop around this is the server's
                        os._exit(code)
                client.sendall(str(job).encode().ljust(16))
                client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])).encode())
                os._exit(0)
            for stream in (*streams, client.fileno()):
                os.close(stream)
            client.detach()


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _become(environment: dict[str, str], streams: list[int]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _serve(sys.argv[1], sys.argv[2:])
    else:
        sys.exit(_lend())
