"""Drives a stack of docker-compose.yml under a project name of its own, on a free port."""

import json
import os
import re
import secrets
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("redis", "teacher", "worker", "gateway")
_OURS = re.compile(r"^(IMAGO|TEACHER|WORKER|GATEWAY|REDIS|COMPOSE|LOG_LEVEL)")


def compose_command() -> list[str] | None:
    """Return `docker compose` or `docker-compose`, whichever is here; None where neither is."""
    if shutil.which("docker") and _succeeds(["docker", "compose", "version"]):
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def engine_answers() -> bool:
    """Say whether a Docker engine answers."""
    return shutil.which("docker") is not None and _succeeds(["docker", "info"])


class Stack:
    """One run of the compose file. Image names are the same for each run, so that layers are found again."""

    def __init__(self, command: list[str], empty_env_file: Path) -> None:
        self.project = f"imago-test-{secrets.token_hex(4)}"
        self._command = [*command, "--env-file", str(empty_env_file), "-p", self.project]
        kept = {key: value for key, value in os.environ.items() if not _OURS.match(key)}
        self._environment = kept | {"IMAGO_TAG": "test", "GATEWAY_PORT": "0"}

    def compose(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run a compose command and return what it printed; raise with all its output where it fails."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-6000:]
            raise RuntimeError(f"compose {' '.join(arguments)} left with {done.returncode}:\n{said}")
        return done.stdout

    def execute(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a running container and return how it went."""
        return subprocess.run(
            ["docker", "exec", self.container(service), *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def container(self, service: str) -> str:
        """Return the id of the service's container, running or not."""
        label = f"label=com.docker.compose.project={self.project}"
        listed = subprocess.run(
            [
                "docker",
                "ps",
                "-aq",
                "--filter",
                label,
                "--filter",
                f"label=com.docker.compose.service={service}",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        (identifier,) = listed.stdout.split()
        return identifier

    def inspect(self, service: str) -> dict[str, dict]:
        """Return what the engine knows of the service's container."""
        shown = subprocess.run(
            ["docker", "inspect", self.container(service)], capture_output=True, text=True, check=True
        )
        return json.loads(shown.stdout)[0]

    def wait_healthy(self, timeout_s: float = 180) -> None:
        """Wait until the health check of every service says healthy."""
        deadline = time.monotonic() + timeout_s
        while True:
            states = {service: self.inspect(service)["State"] for service in SERVICES}
            health = {service: state["Health"]["Status"] for service, state in states.items()}
            if set(health.values()) == {"healthy"}:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not healthy after {timeout_s} s: {health}\n{self.logs()}")
            time.sleep(1)

    def gateway_url(self) -> str:
        """Return the address that the gateway is published under."""
        return f"http://{self.compose('port', 'gateway', '8080').strip()}"

    def logs(self) -> str:
        """Return the last lines of each service."""
        return self.compose("logs", "--no-color", "--tail", "40")


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
