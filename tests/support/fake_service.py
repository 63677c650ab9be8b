"""A service of the stack that does nothing but live: `fake_service.py NAME`, run as a process of its own.

It answers /health/ready on the port that its variables name, writes `NAME begins` and `NAME ends` with a time
to the file FAKE_DIARY, and behaves as FAKE_NAME asks: `stubborn` ignores SIGTERM, `broken` does not start,
`parent` has a child of its own in its process group.
"""

import http.server
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

PORTS = {"gateway": "GATEWAY_PORT", "teacher": "TEACHER_PORT", "worker": "WORKER_HEALTH_PORT"}


class Ready(http.server.BaseHTTPRequestHandler):
    """Answers every question with yes."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    name = sys.argv[1]
    behaviour = os.environ.get(f"FAKE_{name.upper()}", "")
    if behaviour == "broken":
        sys.exit("FAKE_SETTING: this is what was wrong")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ[PORTS[name]])), Ready)
    over = threading.Event()
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: over.set())
    write(f"{name} begins {os.getpid()}")
    if behaviour == "parent":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        write(f"{name}-child begins {child.pid}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not over.wait(0.05):
        pass
    write(f"{name} ends {os.getpid()}")
    os._exit(0)


def write(line: str) -> None:
    with Path(os.environ["FAKE_DIARY"]).open("a") as diary:
        diary.write(f"{line}\n")


if __name__ == "__main__":
    main()
