"""What the hostile chapters aim at: real processes, what they take of the machine, and whether they live."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from shared.artefacts.store import ArtefactStore
from tests.support.gateway_process import GatewayProcess
from tests.support.student_bundles import mlp_onnx, write_bundle

NO_REDIS = "redis://127.0.0.1:1/0"
"""Nothing listens there: predictions and uploads of datasets go on without."""


class Target:
    """A service of which each process is known by its number, so that one that died shows."""

    def __init__(self, url: str, pid: int, log: Path, store: Path) -> None:
        self.url = url
        self.host, _, port = url.removeprefix("http://").partition(":")
        self.port = int(port)
        self.log = log
        self.store = store
        self._process = psutil.Process(pid)
        self.pids = self._pids()
        self.rss_before = self.rss()

    def _pids(self) -> set[tuple[int, float]]:
        every = [self._process, *self._process.children(recursive=True)]
        return {(one.pid, one.create_time()) for one in every}

    def rss(self) -> int:
        """Return the bytes of memory that all its processes have."""
        return sum(one.memory_info().rss for one in [self._process, *self._process.children(recursive=True)])

    def grown(self) -> float:
        """Return by how many MiB its memory has grown since `rss_before` was taken."""
        return (self.rss() - self.rss_before) / 2**20

    def descriptors(self) -> int:
        return int(self._process.num_fds())

    def is_same(self) -> bool:
        """Tell whether the processes are those that there were at the beginning."""
        return self._process.is_running() and self.pids <= self._pids()

    def limit_descriptors(self, most: int) -> None:
        """Let the process have so many descriptors and no more."""
        self._process.rlimit(psutil.RLIMIT_NOFILE, (most, most))


@contextmanager
def hostile_gateway(state: Path, redis_url: str = NO_REDIS, **settings: str) -> Iterator[Target]:
    """Run a gateway with a live student, without Redis unless one is named; yield it once it is ready."""
    state.mkdir(parents=True, exist_ok=True)
    students = ArtefactStore(state / "store").students
    students.publish("digits-1", lambda at: write_bundle(at, "digits-1", mlp_onnx()))
    students.promote("digits-1")
    process = GatewayProcess(state, redis_url, **settings).start()
    try:
        assert process.process is not None
        yield Target(process.url, process.process.pid, process.log, state / "store")
        assert process.process.poll() is None, "the gateway has died"
    finally:
        process.stop()


class Liveness:
    """Asks `/health/live` again and again, each time on a connection of its own, from a thread."""

    def __init__(self, target: Target, every_s: float = 0.02) -> None:
        self._target = target
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seconds: list[float] = []
        self.failed: list[str] = []

    def __enter__(self) -> "Liveness":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)

    @property
    def p99_s(self) -> float:
        return sorted(self.seconds)[int(0.99 * len(self.seconds))]

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            began = time.perf_counter()
            connection = http.client.HTTPConnection(self._target.host, self._target.port, timeout=10)
            try:
                connection.request("GET", "/health/live")
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failed.append(str(answer.status))
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
            finally:
                connection.close()
            self.seconds.append(time.perf_counter() - began)
