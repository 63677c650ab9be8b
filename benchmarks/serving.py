"""Our gateway beside other servers of the same student, on the same cores in the same run.

For each server and each number of connections: requests per second, latency, CPU of the server a request,
memory, time to the first answer. wrk is the load; it runs on the same cores. Servers take turns, round by
round, so that a machine that is busy for a while is so for all of them. Before a server is timed its answers
are compared with those of the float32 graph, several at a time.

    python -m benchmarks.serving --peers mosec,litserve,bentoml --rounds 3 --json FILE --markdown FILE

A peer runs from `.bench/<peer>`, an environment of its own that is made when it is asked for the first time;
one that cannot be installed, or does not answer rightly, is left out with a message. `wrk` has to be there
(Debian: `apt install wrk`), for TorchServe a Java runtime. Peers run the float32 graph, as an exported model
is; those that come near us run our chosen graph, too, in rows of their own. We are one configuration at all
loads.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil

from benchmarks.serving_load import Server, ask, check, load, running
from benchmarks.serving_peers import PEERS, environment, versions
from benchmarks.serving_student import FLOAT32, SERVED, WORKLOADS, Student, promoted
from benchmarks.serving_table import GIVEN, LOADS, OURS, Bar, Row, bars, bars_table, floor_of, ratios, table
from shared.processor import processor
from tests.support.redis_server import free_port

SERVERS = Path(__file__).with_name("serving_servers")

_WARM_S = 1
_OTHERWISE_S = 1.5
"""Of a server in a round, beside its start, its warming and its loads."""
_FLOOR_S = 1.0
_FAILURES = (
    RuntimeError, ValueError, OSError, httpx.HTTPError, psutil.Error, subprocess.CalledProcessError,
)  # fmt: skip
"""Of a server, which is left out then; the others go on."""
_PACKAGES = ("fastapi", "numpy", "onnxruntime", "orjson", "pillow", "uvicorn", "uvloop", "httptools")


@dataclass
class Measured:
    """Everything about one workload."""

    student: Student
    rows: list[Row]
    floor: list[dict[str, float]]
    left_out: dict[str, str]
    rounds: list[dict[str, float]]
    """How busy the machine was before each round: the share of its cores, and its load."""


def main() -> None:
    """Measure, print the tables, and write what `--json` and `--markdown` ask for."""
    asked = _asked()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; Debian has it: apt install wrk")
    names = [name for name in asked.peers.split(",") if name]
    if unknown := sorted(set(names) - set(PEERS)):
        sys.exit(f"there is no peer {', '.join(unknown)}, only {', '.join(sorted(PEERS))}")
    connections = tuple(int(word) for word in asked.connections.split(","))
    pythons = {name: python for name in names if (python := environment(name)) is not None}
    reports, everything = [], {}
    with tempfile.TemporaryDirectory(prefix="imago-serving-") as folder:
        planned = []
        for workload in asked.workload.split(","):
            at = Path(folder) / workload
            at.mkdir()
            student = promoted(workload, at)
            servers = [*_own(student, asked.processes), *_peers(pythons, student, workload)]
            servers = [
                replace(one, connections=tuple(c for c in one.connections if c in connections))
                for one in servers
                if re.search(asked.only, one.name)
            ]
            planned.append((workload, student, [one for one in servers if one.connections], at))
        seconds = sum(_estimate_s(servers, asked.rounds, asked.seconds) for _, _, servers, _ in planned)
        print(f"this takes about {seconds / 60:.0f} minutes", file=sys.stderr, flush=True)
        for workload, student, servers, at in planned:
            measured = _measure(student, servers, at, asked.rounds, asked.seconds)
            reports.append(_report(workload, measured))
            everything[workload] = _plain(workload, measured)
    text = "\n\n".join([*reports, _versions(pythons)]) + "\n"
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text)
    if asked.json:
        facts = {
            "machine": {"processor": processor(), "cores": os.cpu_count()},
            "asked": {"rounds": asked.rounds, "seconds": asked.seconds},
            "versions": {OURS: _own_versions(), **{name: versions(name, at) for name, at in pythons.items()}},
            "workloads": everything,
        }
        asked.json.write_text(json.dumps(facts, indent=1))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--workload", default=",".join(WORKLOADS), help=f"by commas, of {', '.join(WORKLOADS)}"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of one load in one round")
    parser.add_argument("--connections", default=",".join(map(str, LOADS)), help="loads, by commas")
    parser.add_argument("--peers", default="", help=f"by commas, of {', '.join(PEERS)}")
    parser.add_argument("--processes", default="2", help="GATEWAY_PROCESSES to try, by commas")
    parser.add_argument("--only", default="", help="a regular expression over the servers' names")
    parser.add_argument("--json", type=Path, help="where to write every figure of every round")
    parser.add_argument("--markdown", type=Path, help="where to write the tables")
    return parser.parse_args()


def _own(student: Student, processes: str) -> list[Server]:
    """Return the gateway, first as it is to reach the bars, and the references.

    First comes the graph that the export chose, then float32 where that is another one, then the first again
    with an access log, which is off by default as it is in what the peers run.
    """
    graphs = sorted(student.graphs, key=lambda name: name != SERVED)
    kinds = [(graph, FLOAT32 if graph == FLOAT32 != graphs[0] else "", {}) for graph in graphs]
    if len(graphs) > 1:  # next to a slow net a line of log is nothing
        kinds.append((graphs[0], "access log", {"GATEWAY_ACCESS_LOG": "true"}))
    servers = []
    for number in processes.split(","):
        words = f"{OURS}, {number} process{'es' if number != '1' else ''}"
        for graph, kind, more in kinds:
            own = {
                "IMAGO_STATE_DIR": str(student.states[graph]),
                "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
                "GATEWAY_PROCESSES": number,
            }
            command = (sys.executable, "-m", "services.gateway")
            name = f"{words}, {kind}" if kind else words
            servers.append(
                Server(name, OURS, graph, command, "/v1/predictions", LOADS, environment=own | more)
            )
    for name, script, path in (
        ("raw ASGI echo", "raw_asgi", "/"),
        ("FastAPI + ORT", "plain_fastapi", "/predict"),
    ):
        command = _script(sys.executable, script, student, FLOAT32, "")
        servers.append(Server(name, name, FLOAT32, command, path, LOADS, answers=script != "raw_asgi"))
    return servers


def _peers(pythons: dict[str, Path], student: Student, workload: str) -> list[Server]:
    servers = []
    for name, python in pythons.items():
        peer = PEERS[name]
        for setting, connections in peer.settings(workload).items():
            for graph in peer.graphs:
                if graph not in student.graphs:
                    continue
                pixels = setting.endswith(" pixels")
                servers.append(
                    Server(
                        f"{name} {setting}" + (GIVEN if graph == SERVED else ""),
                        name + (GIVEN if graph == SERVED else ""),
                        graph,
                        _script(python, f"{name}_server", student, graph, setting),
                        peer.path,
                        connections,
                        form="pixels" if pixels else peer.form,
                        field_name=peer.field_name,
                        start_s=peer.start_s,
                    )
                )
    return servers


def _script(
    python: str | Path, name: str, student: Student, graph: str, setting: str
) -> tuple[str | Path, ...]:
    size = student.workload.image
    return (
        python, SERVERS / f"{name}.py", "{port}", student.graphs[graph],
        str(size.height), str(size.width), str(size.channels), setting,
    )  # fmt: skip


def _estimate_s(servers: Sequence[Server], rounds: int, seconds: int) -> float:
    floor = 6 * (_FLOOR_S + 0.6) + 1
    each = [one.start_s + _WARM_S + _OTHERWISE_S + len(one.connections) * (seconds + 0.3) for one in servers]
    return rounds * (floor + sum(each))


def _measure(student: Student, servers: Sequence[Server], at: Path, rounds: int, seconds: int) -> Measured:
    rows = [Row(server) for server in servers]
    found = Measured(student, rows, [], {}, [])
    for number in range(rounds):
        busy = psutil.cpu_percent(interval=1) / 100
        found.rounds.append({"busy": busy, "load": os.getloadavg()[0]})
        print(f"round {number + 1}: {busy:.0%} of the cores were busy before it", file=sys.stderr, flush=True)
        found.floor.append(_floor(student))
        # Another order each round, so that none always comes after the same neighbour.
        turn = number * len(rows) // rounds
        for row in rows[turn:] + rows[:turn]:
            if row.server.name in found.left_out:
                continue
            try:
                _one(row, student, at, seconds)
            except _FAILURES as error:
                found.left_out[row.server.name] = str(error)
                print(f"{row.server.name} is left out: {error}", file=sys.stderr, flush=True)
    found.rows = [row for row in rows if row.server.name not in found.left_out]
    return found


def _one(row: Row, student: Student, at: Path, seconds: int) -> None:
    server, png = row.server, student.pngs[0]
    with running(server, png, at) as started:
        check(started, server, student.pngs, student.expected)
        ask(started.url, server, png, 16, _WARM_S, at)
        figures = {
            connections: load(started, server, png, connections, seconds, at)
            for connections in server.connections
        }
    row.starts.append(started.start_s)
    for connections, one in figures.items():
        row.figures.setdefault(connections, []).append(one)
        print(f"{server.name:36} c={connections:<3} {one}", file=sys.stderr, flush=True)


def _floor(student: Student) -> dict[str, float]:
    size = student.workload.image
    graph = student.graphs.get(SERVED, student.graphs[FLOAT32])
    command = [
        sys.executable,
        SERVERS / "raw_onnx.py",
        graph,
        *map(str, (size.height, size.width, size.channels)),
    ]
    done = subprocess.run([*command, str(_FLOOR_S)], check=True, capture_output=True, text=True)
    rates: dict[str, float] = json.loads(done.stdout)
    return rates


def _headline(measured: Measured) -> Row | None:
    return next((row for row in measured.rows if row.server.framework == OURS), None)


def _bars(workload: str, measured: Measured, ours: Row) -> list[Bar]:
    floor_images_s = floor_of(measured.floor)[1] if workload == "resnet20" else None
    return bars(measured.rows, ours, floor_images_s=floor_images_s)


def _report(workload: str, measured: Measured) -> str:
    name, images_s = floor_of(measured.floor)
    busy = statistics.median(one["busy"] for one in measured.rounds)
    parts = [
        f"### {measured.student.workload.title}",
        table(measured.rows),
        f"ONNX Runtime alone on these cores, the same graph as ours: {images_s:,.0f} images/s "
        f"({name}: processes x images a call). Before the rounds {busy:.0%} of the cores were busy.",
    ]
    ours = _headline(measured)
    if ours is not None:
        parts += [
            f"Against each, in its best setting at that load, {ours.server.name}:",
            ratios(measured.rows, ours),
            bars_table(_bars(workload, measured, ours)),
        ]
    if measured.left_out:
        parts.append("Left out: " + ", ".join(measured.left_out))
    return "\n\n".join(parts)


def _plain(workload: str, measured: Measured) -> dict[str, object]:
    ours = _headline(measured)
    return {
        "choice": measured.student.choice.model_dump(mode="json") if measured.student.choice else None,
        "rounds": measured.rounds,
        "floor_images_s": measured.floor,
        "left_out": measured.left_out,
        "rows": [
            {
                "server": row.server.name,
                "framework": row.server.framework,
                "graph": row.server.graph,
                "form": row.server.form,
                "start_s": row.starts,
                "connections": {str(c): [asdict(one) for one in rounds] for c, rounds in row.figures.items()},
            }
            for row in measured.rows
        ],
        "bars": [asdict(bar) for bar in _bars(workload, measured, ours)] if ours is not None else [],
    }


def _own_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _versions(pythons: dict[str, Path]) -> str:
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.split("[")[0].strip()
    lines = [f"Machine: {os.cpu_count()} cores, {processor()}; load: {wrk}, one thread, on the same cores."]
    for name, found in {
        OURS: _own_versions(),
        **{one: versions(one, at) for one, at in pythons.items()},
    }.items():
        lines.append(f"* {name}: " + ", ".join(f"{package} {number}" for package, number in found.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
