"""A real `python -m services.worker` for tests; its training process is `tests.support.training_stub`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from tests.support.redis_server import free_port

ROOT = Path(__file__).resolve().parents[2]


def eventually(condition: Callable[[], bool], within_s: float, what: str) -> float:
    """Wait for the condition; return how long it took, in seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"not within {within_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


class WorkerProcess:
    """One worker; `settings` are environment variables without their prefix."""

    def __init__(self, redis_url: str, state_dir: Path, **settings: object) -> None:
        self.port = free_port()
        self.state_dir = state_dir
        self.log = state_dir / f"worker-{self.port}.log"
        state_dir.mkdir(parents=True, exist_ok=True)
        given = {
            "training_module": "tests.support.training_stub", "health_port": self.port, "lease_s": 1.5,
            "cancel_poll_s": 0.3, "cancel_grace_s": 1.0, "shutdown_grace_s": 5.0, "reconcile_s": 0.2,
        } | settings  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WORKER_")}
        environment |= {f"WORKER_{name.upper()}": str(value) for name, value in given.items()}
        environment |= {"REDIS_URL": redis_url, "IMAGO_STATE_DIR": str(state_dir)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.worker"], cwd=ROOT, env=environment, stderr=log, stdout=log
            )

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self) -> "WorkerProcess":
        eventually(self.is_ready, 20, "the worker is ready")
        return self

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def terminate(self, within_s: float = 15) -> float:
        """Stop it as an orchestrator does; return how long it took, in seconds."""
        began = time.monotonic()
        self.process.terminate()
        assert self.process.wait(timeout=within_s) == 0, self.log.read_text()
        return time.monotonic() - began

    def kill(self) -> None:
        """Kill it as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
