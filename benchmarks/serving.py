"""Our gateway beside other servers of the same student, on the same cores in the same run.

For each server and each number of connections: requests per second, latency, CPU of the server a request,
memory. wrk is the load; it runs on the same cores. Servers take turns, round by round, so that a machine that
is busy for a while is so for all of them, and the medians of the rounds are printed with the ratio to ours.

    python -m benchmarks.serving [--workload mlp] [--rounds 3] [--peers mosec,litserve,bentoml] [--json FILE]

A peer runs from `.bench/<peer>`, an environment of its own that is made when it is asked for the first time;
one that cannot be installed is left out with a message. `wrk` has to be there (Debian: `apt install wrk`).
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil

from benchmarks.serving_student import WORKLOADS, Workload, promoted
from tests.support.redis_server import free_port

ROOT = Path(__file__).resolve().parents[1]
SERVERS = Path(__file__).with_name("serving_servers")
CONNECTIONS = (1, 16, 64)
_BOUNDARY = "benchmark"


@dataclass(frozen=True)
class Peer:
    """A framework: what to install, in which settings to run it, and how it takes an image."""

    packages: tuple[str, ...]
    settings: tuple[str, ...]
    path: str
    form_field: str | None = None
    """Of the form that its documentation shows for files; a raw body where there is none."""


PEERS = {
    "mosec": Peer(
        ("mosec", "numpy", "onnxruntime", "opencv-python-headless", "orjson"),
        ("1x1@0", "1x32@1", "2x32@1", "2x32@2"),
        "/inference",
    ),
    "litserve": Peer(
        ("litserve", "numpy", "onnxruntime", "pillow", "python-multipart"),
        ("1x1@0", "1x32@2", "2x32@2"),
        "/predict",
        "request",
    ),
    "bentoml": Peer(
        ("bentoml", "httptools", "numpy", "onnxruntime", "pillow", "uvloop"),
        ("1x1", "1x32", "2x32"),
        "/predict",
        "image",
    ),
}


@dataclass(frozen=True)
class Server:
    """One row of the table: how to start it and where to ask it."""

    name: str
    command: Sequence[str | Path]
    path: str
    form_field: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Figures:
    """Of one server at one number of connections in one round."""

    requests_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    pss_mb: float
    errors: int


def main() -> None:
    """Measure, print the table, and write it where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="mlp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--peers", default="", help=f"by commas, of {', '.join(sorted(PEERS))}")
    parser.add_argument("--processes", default="1,2", help="GATEWAY_PROCESSES to try, by commas")
    parser.add_argument("--only", default="", help="a regular expression over the servers' names")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; Debian has it: apt install wrk")
    with tempfile.TemporaryDirectory(prefix="imago-serving-") as folder:
        at = Path(folder)
        workload = WORKLOADS[asked.workload]
        graph = promoted(workload, at)
        chosen = [name for name in asked.peers.split(",") if name]
        servers = [*_own(at, graph, workload, asked.processes), *_peers(chosen, graph, workload)]
        servers = [server for server in servers if re.search(asked.only, server.name)]
        measured, starts = _measure(servers, workload, at, asked.rounds, asked.seconds)
    print(_table(measured, starts))
    if asked.json:
        rows = {
            f"{name} c={connections}": [asdict(one) for one in figures]
            for (name, connections), figures in measured.items()
        }
        asked.json.write_text(json.dumps({"machine": _machine(), "rows": rows, "start_s": starts}, indent=2))


def _own(at: Path, graph: Path, workload: Workload, processes: str) -> list[Server]:
    python = sys.executable
    settings = {"IMAGO_STATE_DIR": str(at), "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    return [
        *(
            Server(
                f"imago, {number} process{'es' if number != '1' else ''}",
                (python, "-m", "services.gateway"),
                "/v1/predictions",
                environment=settings | {"GATEWAY_PROCESSES": number},
            )
            for number in processes.split(",")
        ),
        Server("raw ASGI echo", _script(python, "raw_asgi", graph, workload, ""), "/"),
        Server("FastAPI + ORT", _script(python, "plain_fastapi", graph, workload, ""), "/predict"),
    ]


def _peers(names: Sequence[str], graph: Path, workload: Workload) -> list[Server]:
    servers = []
    for name in names:
        if name not in PEERS:
            sys.exit(f"there is no peer {name!r}, only {', '.join(sorted(PEERS))}")
        python = _environment(name)
        if python is None:
            continue
        peer = PEERS[name]
        for setting in peer.settings:
            command = _script(python, f"{name}_server", graph, workload, setting)
            servers.append(Server(f"{name} {setting}", command, peer.path, peer.form_field))
    return servers


def _script(
    python: str | Path, name: str, graph: Path, workload: Workload, setting: str
) -> tuple[str | Path, ...]:
    size = workload.image
    return (
        python, SERVERS / f"{name}.py", "{port}", graph,
        str(size.height), str(size.width), str(size.channels), setting,
    )  # fmt: skip


def _environment(name: str) -> Path | None:
    """Return the interpreter of a peer's own environment, made where it is missing; None where it fails."""
    python = ROOT / ".bench" / name / "bin" / "python"
    installed = python.parents[1] / "installed"
    if installed.exists():
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PEERS[name].packages], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{name} is left out, it does not install here: {error}", file=sys.stderr)
        return None
    installed.touch()
    return python


def _measure(
    servers: Sequence[Server], workload: Workload, at: Path, rounds: int, seconds: float
) -> tuple[dict[tuple[str, int], list[Figures]], dict[str, list[float]]]:
    measured: dict[tuple[str, int], list[Figures]] = {}
    starts: dict[str, list[float]] = {}
    broken: set[str] = set()
    for number in range(rounds):
        # Another order each round, so that none always comes after the same neighbour.
        for server in servers[number % len(servers) :] + servers[: number % len(servers)]:
            if server.name in broken:
                continue
            try:
                with _running(server, workload, at) as (url, process, start_s):
                    starts.setdefault(server.name, []).append(start_s)
                    _wrk(url, at, server, workload, 16, 1.0)
                    for connections in CONNECTIONS:
                        found = _load(url, at, server, workload, connections, seconds, process)
                        measured.setdefault((server.name, connections), []).append(found)
                        print(f"{server.name:24} c={connections:<3} {found}", file=sys.stderr, flush=True)
            except RuntimeError as error:
                broken.add(server.name)
                print(f"{server.name} is left out: {error}", file=sys.stderr, flush=True)
    return measured, starts


def _body(server: Server, workload: Workload) -> tuple[bytes, str]:
    png = workload.png()
    if server.form_field is None:
        return png, "image/png"
    head = (
        f"--{_BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="{server.form_field}"; filename="image.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    body = head.encode() + png + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return body, f"multipart/form-data; boundary={_BOUNDARY}"


@contextmanager
def _running(server: Server, workload: Workload, at: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """Start a server, wait for its first answer to an image, and end it and its children in the end."""
    port = free_port()
    command = [str(word).replace("{port}", str(port)) for word in server.command]
    environment = {**os.environ, "GATEWAY_PORT": str(port), "OMP_NUM_THREADS": "1", **server.environment}
    body, media_type = _body(server, workload)
    url = f"http://127.0.0.1:{port}{server.path}"
    log = at / "server.log"
    began = time.perf_counter()
    with log.open("wb") as output:
        started = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        with httpx.Client() as client:
            while True:
                try:
                    answer = client.post(url, content=body, headers={"Content-Type": media_type}, timeout=5)
                    if answer.is_success:
                        break
                except httpx.HTTPError:
                    pass
                if started.poll() is not None or time.perf_counter() - began > 60:
                    raise RuntimeError(f"it did not start: {log.read_text(errors='replace')[-800:]}")
                time.sleep(0.01)
        start_s = time.perf_counter() - began
        time.sleep(1.0)  # the other processes of a server with several
        yield url, psutil.Process(started.pid), start_s
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        else:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)  # children that it has left behind


def _load(
    url: str,
    at: Path,
    server: Server,
    workload: Workload,
    connections: int,
    seconds: float,
    process: psutil.Process,
) -> Figures:
    before = _cpu_s(process)
    output = _wrk(url, at, server, workload, connections, seconds)
    used = _cpu_s(process) - before
    requests = int(_found(r"(\d+) requests in", output))
    return Figures(
        requests_s=float(_found(r"Requests/sec:\s+([\d.]+)", output)),
        p50_ms=_milliseconds(_found(r"\n +50%\s+(\S+)", output)),
        p99_ms=_milliseconds(_found(r"\n +99%\s+(\S+)", output)),
        cpu_us=round(used / max(1, requests) * 1e6, 1),
        pss_mb=round(_pss_mb(process), 1),
        errors=int(_found(r"Non-2xx or 3xx responses: (\d+)", output, "0"))
        + sum(map(int, _found(r"Socket errors: (.+)", output, "").replace(",", "").split()[1::2])),
    )


def _wrk(url: str, at: Path, server: Server, workload: Workload, connections: int, seconds: float) -> str:
    body, media_type = _body(server, workload)
    (at / "body").write_bytes(body)
    script = at / "post.lua"
    script.write_text(
        'wrk.method = "POST"\n'
        f'local file = io.open("{at / "body"}", "rb")\n'
        'wrk.body = file:read("*a")\n'
        f'wrk.headers["Content-Type"] = "{media_type}"\n'
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script), url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu_s(process: psutil.Process) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in _tree(process))


def _pss_mb(process: psutil.Process) -> float:
    return sum(one.memory_full_info().pss for one in _tree(process)) / 1e6


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


def _table(
    measured: Mapping[tuple[str, int], Sequence[Figures]], starts: Mapping[str, Sequence[float]]
) -> str:
    """Return the medians as a Markdown table."""
    each = " | ".join(f"c = {connections} | p50 / p99 ms" for connections in CONNECTIONS)
    lines = [
        f"| server | {each} | CPU µs at 64 | PSS MB | start s | errors |",
        "|" + " --- |" * (2 * len(CONNECTIONS) + 5),
    ]
    for name in dict.fromkeys(name for name, _ in measured):
        cells = []
        for connections in CONNECTIONS:
            rows = measured[name, connections]
            cells.append(f"{_median(rows, 'requests_s'):,.0f}")
            cells.append(f"{_median(rows, 'p50_ms'):.2f} / {_median(rows, 'p99_ms'):.1f}")
        rows = measured[name, 64]
        errors = sum(row.errors for connections in CONNECTIONS for row in measured[name, connections])
        cells += [f"{_median(rows, 'cpu_us'):.0f}", f"{_median(rows, 'pss_mb'):.0f}"]
        cells += [f"{statistics.median(starts[name]):.1f}", str(errors)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _median(rows: Sequence[Figures], name: str) -> float:
    return statistics.median(getattr(row, name) for row in rows)


def _machine() -> dict[str, object]:
    packages = ("fastapi", "numpy", "onnxruntime", "orjson", "pillow", "uvicorn", "uvloop", "httptools")
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


if __name__ == "__main__":
    main()
