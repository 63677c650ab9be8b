"""Starts Redis, teacher, worker and gateway, watches over them, and leaves nothing behind.

What is promised:

- Everything that was started ends with this process: in order (gateway, worker, teacher, Redis) by SIGTERM,
  then SIGKILL after a grace; by the kernel and a guard where this process is killed itself
  (`tether.py`, `guard.py`).
- A child that dies is started again, at most three times in ten minutes; then the stack stops, because a part
  that cannot stay up needs a person. Nothing is lost by it: jobs are in Redis, which is on the disk.
- One state directory holds one stack (`state.py`).
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit, urlunsplit

import httpx

from services.cli import local_redis, teacher_key
from services.cli.addresses import Address, claim, free_port
from services.cli.child import Child
from services.cli.errors import StackFailed
from services.cli.guard import Guard
from services.cli.settings import CliSettings
from services.cli.signals import second_signal
from services.cli.state import StackState, only_stack, stack_file, write_stack

START_TIMEOUT_S: Final = 120.0
"""Importing torch on two busy cores takes tens of seconds."""
MOST_RESTARTS: Final = 3
RESTART_WINDOW_S: Final = 600.0
_REDIS_PORTS_TRIED: Final = 5

SERVICES: Final[Mapping[str, Sequence[str]]] = {
    # -P: a folder called `services` where the user stands must not be taken for ours.
    name: (sys.executable, "-P", "-m", f"services.{name}")
    for name in ("teacher", "worker", "gateway")
}
GRACE_S: Final[Mapping[str, float]] = {"redis": 10.0, "teacher": 35.0, "worker": 35.0, "gateway": 35.0}
"""From SIGTERM to SIGKILL; longer than requests in flight and the checkpoint of a training may take."""


class Stack:
    """All processes of Imago on one machine. Use it as a context: leaving it stops everything.

    Args:
        settings: where things listen and where the state is.
        any_port: take a free port where the one in the settings is taken, instead of refusing.
        say: is told in words what happens.
        commands: what to run by name of service; tests hand in their own.
    """

    def __init__(
        self,
        settings: CliSettings,
        *,
        any_port: bool = False,
        say: Callable[[str], None] = lambda _words: None,
        commands: Mapping[str, Sequence[str]] = SERVICES,
    ) -> None:
        self.state_dir = settings.absolute_state_dir
        self._settings = settings
        self._any_port = any_port
        self._say = say
        self._commands = commands
        self._lock = only_stack(self.state_dir)
        self._children: list[Child] = []
        self._deaths: dict[str, list[float]] = {}
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        self._lock.__enter__()
        self._guard = Guard()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._guard.dismiss()
            self._lock.__exit__(None, None, None)

    # --- start ---

    def start(self) -> StackState:
        """Start everything; return once every part is ready.

        Raises:
            StackFailed: a port is taken, Redis does not answer, or a part did not come up.
        """
        settings = self._settings
        gateway = claim("GATEWAY", settings.gateway_host, settings.gateway_port, any_port=self._any_port)
        teacher = claim("TEACHER", settings.teacher_host, settings.teacher_port, any_port=self._any_port)
        # Nobody needs to know this port, so another will always do.
        health = claim(
            "WORKER_HEALTH", settings.worker_health_host, settings.worker_health_port, any_port=True
        )
        redis_url = self._start_redis()
        environment = self._environment(redis_url, gateway, teacher, health)
        keys = teacher_key.environments(settings)
        with httpx.Client(timeout=5.0, trust_env=False) as http:
            for name, address in (("teacher", teacher), ("worker", health), ("gateway", gateway)):
                told = {**environment, **keys.get(name, {})}
                self._launch(name, self._commands[name], told, _http_ready(http, address.url))
            for child in self._children:
                child.wait_until_ready(START_TIMEOUT_S)
                self._say(f"{child.name} is ready")
        state = StackState(
            pid=os.getpid(),
            state_dir=str(self.state_dir),
            gateway_url=gateway.url,
            teacher_url=teacher.url,
            redis_url=_without_password(redis_url),
            pids={child.name: child.pid for child in self._children if child.pid is not None},
            started_at=datetime.now(UTC),
        )
        write_stack(self.state_dir, state)
        return state

    def _start_redis(self) -> str:
        given = self._settings.own_redis_url
        if given is not None:
            if not local_redis.answers(given):
                raise StackFailed(
                    "redis-unreachable",
                    f"REDIS_URL is set, but {_without_password(given)} does not answer",
                    "Start that Redis, or unset REDIS_URL to have one started.",
                )
            return given
        server = local_redis.find_server()
        directory = self.state_dir / "redis"
        directory.mkdir(parents=True, exist_ok=True)
        local_redis.check_readable(server, directory)
        password = local_redis.password_of(directory)
        for attempt in range(1, _REDIS_PORTS_TRIED + 1):
            port = free_port("127.0.0.1")
            url = local_redis.url_of(port, password)
            command = local_redis.server_command(server, directory, port)
            child = self._launch("redis", command, os.environ, local_redis.readiness(url))
            try:
                child.wait_until_ready(START_TIMEOUT_S)
            except StackFailed:
                # Between looking and binding, another process can take a free port.
                if attempt == _REDIS_PORTS_TRIED or "in use" not in child.tail():
                    raise
                self._children.remove(child)
            else:
                return url
        raise AssertionError("the last attempt returns or raises")

    def _launch(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        ready: Callable[[Child], bool],
    ) -> Child:
        log = self.state_dir / "logs" / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        child = Child(name, command, environment, log, self._guard, ready, GRACE_S[name])
        self._children.append(child)
        child.start()
        return child

    def _environment(
        self, redis_url: str, gateway: Address, teacher: Address, health: Address
    ) -> dict[str, str]:
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = dict(os.environ) | {
            "IMAGO_STATE_DIR": str(self.state_dir),
            "REDIS_URL": redis_url,
            "TEACHER_URL": teacher.url,
            "GATEWAY_HOST": gateway.host,
            "GATEWAY_PORT": str(gateway.port),
            "TEACHER_HOST": teacher.host,
            "TEACHER_PORT": str(teacher.port),
            "WORKER_HEALTH_HOST": health.host,
            "WORKER_HEALTH_PORT": str(health.port),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        environment.pop("REDIS_URL_FILE", None)  # it is in REDIS_URL already
        if self._settings.data_dir is not None:
            environment["IMAGO_DATA_DIR"] = str(self._settings.data_dir.expanduser().resolve())
        return environment

    # --- watch ---

    def supervise(self) -> None:
        """Start again what dies, until `stop` is called.

        Raises:
            StackFailed: a part died more often than it is started again.
        """
        while not self._stopping.wait(0.2):
            for child in self._children:
                status = child.exit_status()
                if status is not None:
                    self._revive(child, status)

    def supervise_in_background(self, failed: Callable[[StackFailed], None]) -> None:
        """Do the same in a thread; `failed` is called from it where the stack has to be given up."""

        def run() -> None:
            try:
                self.supervise()
            except StackFailed as error:
                failed(error)
            # Not earlier: the kernel kills a child when the thread that started it ends.
            self._stopped.wait()

        threading.Thread(target=run, name="stack", daemon=True).start()

    def _revive(self, child: Child, status: int) -> None:
        now = time.monotonic()
        deaths = [at for at in self._deaths.get(child.name, []) if now - at < RESTART_WINDOW_S]
        self._deaths[child.name] = [*deaths, now]
        what = f"{child.name} ended with status {status}"
        if len(deaths) >= MOST_RESTARTS:
            raise child.failure(f"{what}, for the {len(deaths) + 1}th time in {RESTART_WINDOW_S / 60:g} min")
        self._say(f"{what} and is started again; its log is {child.log}")
        if self._stopping.wait(0.5 * len(deaths)):
            return
        with self._changing:
            if not self._stopping.is_set():
                child.start()

    # --- stop ---

    def stop(self) -> None:
        """Stop what was started, in order. A second signal meanwhile makes short work of it."""
        self._stopping.set()
        with second_signal() as in_a_hurry, self._changing:
            for child in sorted(self._children, key=_stop_order):
                child.stop(in_a_hurry)
            self._children.clear()
        stack_file(self.state_dir).unlink(missing_ok=True)
        self._stopped.set()


def _stop_order(child: Child) -> int:
    return ("gateway", "worker", "teacher", "redis").index(child.name)


def _http_ready(http: httpx.Client, url: str) -> Callable[[Child], bool]:
    def ready(child: Child) -> bool:
        # A stranger who took the port meanwhile would answer, too: our own must be alive.
        if child.exit_status() is not None:
            return False
        try:
            return http.get(f"{url}/health/ready").is_success
        except httpx.TransportError:
            return False

    return ready


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
