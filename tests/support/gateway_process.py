"""A gateway as users run it: `python -m services.gateway` in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.support.redis_server import _die_with_parent, free_port

ROOT = Path(__file__).resolve().parents[2]


class GatewayProcess:
    """One gateway on a free port. `settings` are environment variables."""

    def __init__(self, state_dir: Path, redis_url: str, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = state_dir / f"gateway-{self.port}.log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONWARNINGS": "error::ResourceWarning",
            "IMAGO_STATE_DIR": str(state_dir),
            "REDIS_URL": redis_url,
            "GATEWAY_PORT": str(self.port),
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 90.0) -> "GatewayProcess":
        """Start, and return once it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.gateway"],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=1).is_success:
                    return self
            except httpx.HTTPError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                status = self.stop()  # or its processes would outlive it
                said = self.log.read_text()[-4000:]
                raise RuntimeError(f"the gateway did not start, status {status}:\n{said}")
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        """Stop it and return its exit status; negative where a signal ended it."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(timeout=timeout_s)
        self.process = None
        return status

    def events(self) -> str:
        """Return what it has logged."""
        return self.log.read_text()
