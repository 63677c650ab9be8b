"""`/health/live`, `/health/ready` and `/metrics` of the worker, on a small server in a thread of its own.

A file says the same to those who cannot ask by HTTP: its modification time is renewed each second while the
worker is ready.
"""

import json
import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

log = logging.getLogger(__name__)

Readiness = Callable[[], dict[str, bool]]
"""Returns what must hold for the worker to be ready, and whether it does."""


class HealthServer:
    """Serves until closed. `port` 0 takes any free one, which the attribute `port` then says."""

    def __init__(self, host: str, port: int, readiness: Readiness, registry: CollectorRegistry) -> None:
        """Bind the port; raises OSError where it is taken."""

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                """Answer one request."""
                if self.path == "/health/live":
                    self._answer(200, "application/json", b'{"status":"live"}')
                elif self.path == "/health/ready":
                    checks = readiness()
                    ready = all(checks.values())
                    body = {"status": "ready" if ready else "not ready", "checks": checks}
                    self._answer(200 if ready else 503, "application/json", json.dumps(body).encode())
                elif self.path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
                else:
                    self._answer(404, "text/plain", b"not found\n")

            def _answer(self, status: int, media_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Keep probes out of the log, but for debugging."""
                log.debug(format % args)

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, name="health", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()


class Heartbeat(Thread):
    """Touches a file each second while the worker is ready; removes it when the worker leaves."""

    def __init__(self, file: Path, readiness: Readiness, stopping: Event, interval_s: float = 1.0) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._file = file
        self._readiness = readiness
        self._stopping = stopping
        self._interval_s = interval_s

    def run(self) -> None:
        """Beat until the worker stops."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        while not self._stopping.wait(self._interval_s):
            if all(self._readiness().values()):
                self._file.touch()
        self._file.unlink(missing_ok=True)
