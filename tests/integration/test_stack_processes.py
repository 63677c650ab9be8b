"""`imago up`: a real Redis and processes that stand in for the services; nothing may stay behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import redis

from services.cli import local_redis
from services.cli.errors import StackFailed, line
from services.cli.settings import CliSettings
from services.cli.stack import GRACE_S, Stack
from services.cli.state import read_stack
from tests.support.imago_up import COMMANDS
from tests.support.redis_server import free_port

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Place:
    """A state directory and the environment of a stack on it."""

    state_dir: Path
    environment: dict[str, str]

    @property
    def diary(self) -> list[str]:
        path = Path(self.environment["FAKE_DIARY"])
        return path.read_text().splitlines() if path.exists() else []

    def pids(self) -> set[int]:
        """All that ever wrote that it began, and Redis."""
        begun = {int(line.split()[-1]) for line in self.diary if " begins " in line}
        stack = read_stack(self.state_dir)
        return begun | (set(stack.pids.values()) if stack else set())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    environment = {
        "IMAGO_STATE_DIR": str(tmp_path / "state"),
        "GATEWAY_PORT": str(free_port()),
        "TEACHER_PORT": str(free_port()),
        "FAKE_DIARY": str(tmp_path / "diary"),
        "PYTHONPATH": str(ROOT),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in ("REDIS_URL", "WORKER_HEALTH_PORT", "GATEWAY_HOST", "TEACHER_HOST"):
        monkeypatch.delenv(name, raising=False)
    return Place(tmp_path / "state", environment)


def alive(pids: set[int]) -> set[int]:
    return {
        pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    }


def guards() -> list[psutil.Process]:
    """Guards whose stack was one of this process and its children, or has gone."""
    stacks = {os.getpid(), 1, *(child.pid for child in psutil.Process().children())}
    return [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if any(word.endswith("services/cli/guard.py") for word in process.info["cmdline"] or [])
        and process.info["ppid"] in stacks
    ]


def until(true: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def up(place: Place) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run `imago up --json` and wait for its line."""
    started: list[subprocess.Popen[str]] = []

    def run(*, ready: bool = True) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.imago_up", "up", "--json"],
            cwd=ROOT,
            env=os.environ | place.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        if ready:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            assert json.loads(line)["state_dir"] == str(place.state_dir)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def own_redis(place: Place, url: str) -> redis.Redis:
    """Return a client of the Redis that a stack has started."""
    return redis.Redis.from_url(url, password=local_redis.password_of(place.state_dir / "redis"))


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_a_stack_runs_and_stops_in_order(place: Place):
    with Stack(CliSettings(), commands=COMMANDS) as stack:
        state = stack.start()
        pids = place.pids()
        with own_redis(place, state.redis_url) as client:
            config = client.config_get("*")
        with redis.Redis.from_url(state.redis_url) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert len(alive(pids)) == 4
        assert read_stack(place.state_dir) == state
        assert state.gateway_url == f"http://127.0.0.1:{place.environment['GATEWAY_PORT']}"
    assert alive(pids) == set()
    assert read_stack(place.state_dir) is None
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "always"
    assert config["save"] == ""
    assert config["maxmemory-policy"] == "noeviction"
    assert config["dir"] == str(place.state_dir / "redis")
    ends = [line.split()[0] for line in place.diary if " ends " in line]
    assert ends == ["gateway", "worker", "teacher"]


def test_with_keys_on_each_part_is_told_of_the_key_between_them(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = tmp_path / "first"
    first.write_text("f" * 43)
    monkeypatch.setenv("IMAGO_AUTH", "keys")
    monkeypatch.setenv("IMAGO_ADMIN_KEY_FILE", str(first))
    monkeypatch.delenv("TEACHER_KEY_FILE", raising=False)
    with Stack(CliSettings(), commands=COMMANDS) as stack:
        told = {name: psutil.Process(pid).environ() for name, pid in stack.start().pids.items()}
    between = str(place.state_dir / "teacher_key")
    assert told["worker"]["TEACHER_KEY_FILE"] == told["gateway"]["TEACHER_KEY_FILE"] == between
    assert told["teacher"]["IMAGO_ADMIN_KEY_FILE"] == between
    assert told["gateway"]["IMAGO_ADMIN_KEY_FILE"] == str(first), "the first key of the API is another"


def test_what_redis_acknowledged_is_there_in_the_next_stack(place: Place):
    def with_redis(ask: Callable[[redis.Redis], object]) -> object:
        with (
            Stack(CliSettings(), commands=COMMANDS) as stack,
            own_redis(place, stack.start().redis_url) as client,
        ):
            return ask(client)

    with_redis(lambda client: client.set("imago:test", "kept"))
    assert with_redis(lambda client: client.get("imago:test")) == b"kept"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_and_leaves_with_zero(
    place: Place, up: Callable[..., subprocess.Popen[str]], number: signal.Signals
):
    process = up()
    pids = place.pids()
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
    assert len(pids) == 4
    assert alive(pids) == set()
    until(lambda: not guards())
    assert sum(" ends " in line for line in place.diary) == 3


def test_killing_the_stack_itself_leaves_nothing_behind(
    place: Place, up: Callable[..., subprocess.Popen[str]]
):
    place.environment["FAKE_GATEWAY"] = "parent"
    process = up()
    pids = place.pids()
    assert len(alive(pids)) == 5
    process.kill()
    until(lambda: not alive(pids), timeout_s=5)
    assert read_stack(place.state_dir) is None  # the file is there, its stack is not
    until(lambda: not guards())
    up()


def test_a_signal_while_it_starts_leaves_nothing_behind(
    place: Place, up: Callable[..., subprocess.Popen[str]]
):
    process = up(ready=False)
    until(lambda: (place.state_dir / "logs" / "redis.log").exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    mine = [
        p
        for p in psutil.process_iter(["cmdline"])
        if str(place.state_dir) in " ".join(p.info["cmdline"] or [])
    ]
    assert mine == []
    assert alive(place.pids()) == set()


def test_a_service_that_ignores_sigterm_is_killed_with_its_children(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAKE_TEACHER", "stubborn")
    monkeypatch.setenv("FAKE_WORKER", "parent")
    monkeypatch.setattr("services.cli.stack.GRACE_S", GRACE_S | {"teacher": 0.3})
    with Stack(CliSettings(), commands=COMMANDS) as stack:
        stack.start()
        pids = place.pids()
        assert len(alive(pids)) == 5
    until(lambda: not alive(pids), timeout_s=2)
    assert not any(line.startswith("teacher ends") for line in place.diary)


def test_a_second_signal_makes_short_work_of_a_service_that_does_not_end(
    place: Place, up: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
):
    place.environment["FAKE_WORKER"] = "stubborn"
    process = up()
    pids = place.pids()
    process.send_signal(signal.SIGINT)
    until(lambda: any(line.startswith("gateway ends") for line in place.diary))
    process.send_signal(signal.SIGTERM)  # the same wish, twice: make and the terminal both send one
    time.sleep(1.2)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    assert time.monotonic() - began < 5
    assert alive(pids) == set()


def test_a_second_stack_on_the_same_state_is_refused(place: Place):
    with Stack(CliSettings(), commands=COMMANDS):
        second = Stack(CliSettings(), commands=COMMANDS)
        with pytest.raises(StackFailed, match=f"process {os.getpid()}.* already runs on"), second:
            pass
    with Stack(CliSettings(), commands=COMMANDS):
        pass


def test_a_port_that_is_taken_is_named_and_nothing_is_started(place: Place):
    with (
        socket.create_server(("127.0.0.1", int(place.environment["TEACHER_PORT"]))),
        Stack(CliSettings(), commands=COMMANDS) as stack,
        pytest.raises(StackFailed) as failed,
    ):
        stack.start()
    assert failed.value.code == "port-taken"
    assert "TEACHER_PORT" in line(failed.value)
    assert place.diary == []


def test_another_port_is_taken_where_any_will_do(place: Place):
    with (
        socket.create_server(("127.0.0.1", int(place.environment["GATEWAY_PORT"]))),
        Stack(CliSettings(), any_port=True, commands=COMMANDS) as stack,
    ):
        state = stack.start()
        assert place.environment["GATEWAY_PORT"] not in state.gateway_url


def test_a_service_that_does_not_start_is_told_with_the_end_of_its_log(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAKE_WORKER", "broken")
    with Stack(CliSettings(), commands=COMMANDS) as stack:
        with pytest.raises(StackFailed, match="worker ended with status 1") as failed:
            stack.start()
        pids = place.pids()
    assert failed.value.details == "FAKE_SETTING: this is what was wrong"
    assert alive(pids) == set()


def test_a_child_that_dies_is_started_again(place: Place):
    told: list[str] = []
    with Stack(CliSettings(), say=told.append, commands=COMMANDS) as stack:
        state = stack.start()
        stack.supervise_in_background(lambda error: told.append(str(error)))
        for name in ("gateway", "redis"):
            os.kill(state.pids[name], signal.SIGKILL)
        until(lambda: len(place.diary) == 4)
        with own_redis(place, state.redis_url) as client:
            until(lambda: answers(client))
        pids = place.pids()
    assert [line.split()[0] for line in place.diary if " begins " in line].count("gateway") == 2
    assert any("gateway ended with status -9 and is started again" in words for words in told)
    assert alive(pids) == set()


def test_a_child_that_keeps_dying_ends_the_stack(place: Place):
    given_up: list[StackFailed] = []
    with Stack(CliSettings(), commands=COMMANDS) as stack:
        stack.start()
        stack.supervise_in_background(given_up.append)

        def kill_the_newest() -> bool:
            newest = [int(line.split()[-1]) for line in place.diary if line.startswith("worker begins")][-1]
            if alive({newest}):
                os.kill(newest, signal.SIGKILL)
            return bool(given_up)

        until(kill_the_newest)
        pids = place.pids()
    assert given_up[0].code == "worker-failed"
    assert "4th time" in given_up[0].detail
    assert alive(pids) == set()


def test_commands_find_a_stack_on_other_ports(place: Place):
    with Stack(CliSettings(), any_port=True, commands=COMMANDS) as stack:
        state = stack.start()
        answer = subprocess.run(
            [sys.executable, "-m", "services.cli", "students", "list"],
            cwd=ROOT, env=os.environ | place.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    # The stand-in answers nothing that makes sense, but it was asked.
    assert f"{state.gateway_url}/v1/students" in answer.stderr


def test_a_redis_that_was_named_is_used_and_left_alone(
    place: Place, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REDIS_URL", redis_url)
    with Stack(CliSettings(), commands=COMMANDS) as stack:
        state = stack.start()
        assert state.redis_url == redis_url
        assert "redis" not in state.pids
    assert local_redis.answers(redis_url)


def test_a_redis_that_was_named_and_does_not_answer_is_told(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", f"redis://:secret@127.0.0.1:{free_port()}/0")
    with Stack(CliSettings(), commands=COMMANDS) as stack, pytest.raises(StackFailed) as failed:
        stack.start()
    assert failed.value.code == "redis-unreachable"
    assert "secret" not in line(failed.value)
