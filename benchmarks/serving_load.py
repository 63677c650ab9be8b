"""One server under load: started, checked, asked by wrk, and looked at from outside."""

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.serving_requests import Form, answered, request
from tests.support.redis_server import free_port

ROOT = Path(__file__).resolve().parents[1]

_START_S = 90.0
_PORTS = 4
"""Further ones that a server is given, as BENCH_PORT_2 and so on."""
_TOLERANCE = 0.02
"""Of a probability: an 8-bit graph, and OpenCV where others have Pillow."""
_CHECKS_AT_ONCE = 16


@dataclass(frozen=True)
class Server:
    """One row of the table: how to start it, where to ask it, and with which loads."""

    name: str
    framework: str
    graph: str
    command: Sequence[str | Path]
    path: str
    connections: tuple[int, ...]
    form: Form = "raw"
    field_name: str = "images"
    environment: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 2.0
    """About what it takes to start and to stop, for the estimate."""
    answers: bool = True
    """Whether it runs the student; the echo does not."""


@dataclass(frozen=True)
class Said:
    """What wrk says of a run."""

    requests: int
    requests_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    """Answers other than 2xx and 3xx, and connections that broke or timed out."""


@dataclass(frozen=True)
class Figures:
    """Of one server at one number of connections in one round."""

    requests_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float
    """Of all of the server's processes, a request."""
    pss_mb: float
    """Of all of the server's processes: shared pages are shared out among who maps them."""
    largest_pss_mb: float
    """Of the largest one."""
    wrk_cores: float
    """What the load itself took of the cores."""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    process: psutil.Process
    start_s: float
    """From its start to its first right answer."""


@contextmanager
def running(server: Server, png: bytes, scratch: Path) -> Iterator[Running]:
    """Start a server, wait for its first answer to an image, and end it and its children in the end.

    Raises:
        RuntimeError: it ends by itself, or has not answered after a minute and a half.
    """
    port = free_port()
    command = [str(word).replace("{port}", str(port)) for word in server.command]
    ports = {f"BENCH_PORT_{number}": str(free_port()) for number in range(2, 2 + _PORTS)}
    # Whatever they leave behind goes with it; its name is short, as paths of sockets have to be.
    home = Path(tempfile.mkdtemp(prefix="b-"))
    log = scratch / "server.log"
    given = {"GATEWAY_PORT": str(port), "OMP_NUM_THREADS": "1", "HOME": str(home), "TMPDIR": str(home)}
    asked = request(png, server.form, name=server.field_name)
    url = f"http://127.0.0.1:{port}{server.path}"
    began = time.perf_counter()
    with log.open("wb") as output:
        started = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **given, **ports, **server.environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    process = psutil.Process(started.pid)
    try:
        with httpx.Client(timeout=5) as client:
            while True:
                with suppress(httpx.HTTPError):
                    if client.post(url, content=asked.body, headers=asked.all_headers).is_success:
                        break
                if started.poll() is not None or time.perf_counter() - began > _START_S:
                    raise RuntimeError(f"it did not start: {log.read_text(errors='replace')[-1500:]}")
                time.sleep(0.01)
        start_s = time.perf_counter() - began
        time.sleep(1.0)  # the other processes of a server with several
        yield Running(url, process, start_s)
    finally:
        _end(started, process)
        shutil.rmtree(home, ignore_errors=True)


def check(at: Running, server: Server, pngs: Sequence[bytes], expected: Sequence[tuple[int, float]]) -> None:
    """Ask about all images, many at a time and each several times, and compare the answers.

    Raises:
        RuntimeError: an answer is missing, or is not what the float32 graph says of this image.
    """
    if not server.answers:
        return

    def ask(number: int) -> None:
        asked = request(pngs[number], server.form, name=server.field_name)
        answer = client.post(at.url, content=asked.body, headers=asked.all_headers)
        if not answer.is_success:
            raise RuntimeError(f"it answers {answer.status_code}: {answer.text[:300]}")
        name, probability = answered(answer.content)
        if name != expected[number][0] or abs(probability - expected[number][1]) > _TOLERANCE:
            raise RuntimeError(f"it says {name} ({probability}) of an image that is {expected[number]}")

    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(_CHECKS_AT_ONCE) as threads:
        list(threads.map(ask, [*range(len(pngs))] * 4))


def load(at: Running, server: Server, png: bytes, connections: int, seconds: float, scratch: Path) -> Figures:
    """Let wrk ask for some seconds and return what it and the system say."""
    before, children = _cpu_s(at.process), resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    said = said_by(ask(at.url, server, png, connections, seconds, scratch))
    took_s = time.perf_counter() - began
    used = _cpu_s(at.process) - before
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    wrk_s = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    pss_mb = _pss_mb(at.process)
    return Figures(
        requests_s=said.requests_s,
        p50_ms=said.p50_ms,
        p99_ms=said.p99_ms,
        errors=said.errors,
        cpu_us=round(used / max(1, said.requests) * 1e6, 1),
        pss_mb=round(sum(pss_mb), 1),
        largest_pss_mb=round(max(pss_mb), 1),
        wrk_cores=round(wrk_s / took_s, 2),
    )


def ask(url: str, server: Server, png: bytes, connections: int, seconds: float, scratch: Path) -> str:
    """Run wrk and return what it prints."""
    asked = request(png, server.form, name=server.field_name)
    (scratch / "body").write_bytes(asked.body)
    script = scratch / "post.lua"
    headers = "".join(
        f'wrk.headers["{name}"] = "{value.replace(chr(34), "")}"\n'
        for name, value in asked.all_headers.items()
    )
    script.write_text(
        'wrk.method = "POST"\n'
        f'local file = io.open("{scratch / "body"}", "rb")\n'
        'wrk.body = file:read("*a")\n' + headers
    )
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--latency",
        "-s",
        script,
        url,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def said_by(output: str) -> Said:
    """Return the figures in what `wrk --latency` printed.

    Raises:
        RuntimeError: a figure is missing.
    """
    broken = _found(r"Socket errors: (.+)", output, "").replace(",", "").split()[1::2]
    return Said(
        requests=int(_found(r"(\d+) requests in", output)),
        requests_s=float(_found(r"Requests/sec:\s+([\d.]+)", output)),
        p50_ms=_milliseconds(_found(r"\n +50%\s+(\S+)", output)),
        p99_ms=_milliseconds(_found(r"\n +99%\s+(\S+)", output)),
        errors=int(_found(r"Non-2xx or 3xx responses: (\d+)", output, "0")) + sum(map(int, broken)),
    )


def _end(started: "subprocess.Popen[bytes]", process: psutil.Process) -> None:
    """Ask the server to end, and end whatever it leaves behind."""
    try:
        tree = _tree(process)
    except psutil.NoSuchProcess:
        tree = []
    started.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        started.wait(10)
    for one in tree:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    psutil.wait_procs(tree, timeout=5)


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu_s(process: psutil.Process) -> float:
    used = 0.0
    for one in _tree(process):
        with suppress(psutil.NoSuchProcess):
            used += sum(one.cpu_times()[:2])
    return used


def _pss_mb(process: psutil.Process) -> list[float]:
    found = []
    for one in _tree(process):
        with suppress(psutil.NoSuchProcess):
            found.append(one.memory_full_info().pss / 1e6)
    return found


def _found(pattern: str, text: str, otherwise: str | None = None) -> str:
    match = re.search(pattern, text)
    if match is None:
        if otherwise is None:
            raise RuntimeError(f"wrk did not say {pattern!r}: {text}")
        return otherwise
    return match[1]


def _milliseconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if match is None:
        raise RuntimeError(f"wrk gives no time: {text!r}")
    number, unit = match.groups()
    return round(float(number) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[unit], 3)
