"""What rounds of measurements come to: medians, ratios to each peer, and the bars for the gateway.

Ratios are medians of the rounds' own ratios: what slowed the machine in a round slowed both.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.serving_load import Figures, Server

LOADS = (1, 16, 64)
OURS = "imago"
REFERENCES = ("raw ASGI echo", "FastAPI + ORT")
"""Neither ours nor peers."""
GIVEN = ", our graph"
"""Ends the name of a peer that was given the graph that our export chose, in place of its own float32 one."""
_NOTHING = "–"


@dataclass
class Row:
    """Of one server, all its rounds."""

    server: Server
    figures: dict[int, list[Figures]] = field(default_factory=dict)
    """By connections; an element a round."""
    starts: list[float] = field(default_factory=list)
    """Seconds."""

    def median(self, connections: int, name: str) -> float | None:
        """Return the median over the rounds; None where it was not measured with so many connections."""
        rounds = self.figures.get(connections)
        return statistics.median(getattr(one, name) for one in rounds) if rounds else None

    @property
    def errors(self) -> int:
        """Return how many requests failed, at all loads in all rounds."""
        return sum(one.errors for rounds in self.figures.values() for one in rounds)


def table(rows: Iterable[Row]) -> str:
    """Return the medians of every server as a Markdown table."""
    each = " | ".join(f"c = {connections} | p50 / p99 ms" for connections in LOADS)
    lines = [
        f"| server | {each} | CPU µs at 64 | PSS MB, largest | start s | errors |",
        "|" + " --- |" * (2 * len(LOADS) + 5),
    ]
    for row in rows:
        cells = []
        for connections in LOADS:
            rate = row.median(connections, "requests_s")
            p50, p99 = row.median(connections, "p50_ms"), row.median(connections, "p99_ms")
            cells.append(_NOTHING if rate is None else f"{rate:,.0f}")
            cells.append(_NOTHING if p50 is None or p99 is None else f"{p50:.2f} / {p99:.1f}")
        cpu = row.median(64, "cpu_us")
        cells.append(_NOTHING if cpu is None else f"{cpu:,.0f}")
        most = max(row.figures, default=0)
        memory, largest = row.median(most, "pss_mb"), row.median(most, "largest_pss_mb")
        cells.append(_NOTHING if memory is None or largest is None else f"{memory:.0f}, {largest:.0f}")
        cells.append(f"{statistics.median(row.starts):.1f}" if row.starts else _NOTHING)
        cells.append(str(row.errors))
        lines.append(f"| {row.server.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def best(rows: Iterable[Row], framework: str, connections: int) -> Row | None:
    """Return the row of a framework with the most requests a second at a load; None where there is none."""
    measured = [row for row in rows if row.server.framework == framework and connections in row.figures]
    return max(measured, key=lambda row: row.median(connections, "requests_s") or 0.0, default=None)


def ratio(ours: Row, theirs: Row, connections: int) -> float | None:
    """Return how many times as many requests a second we answer; None where one was not measured."""
    pairs = zip(ours.figures.get(connections, ()), theirs.figures.get(connections, ()), strict=False)
    ratios = [one.requests_s / other.requests_s for one, other in pairs if other.requests_s > 0]
    return statistics.median(ratios) if ratios else None


def ratios(rows: Sequence[Row], ours: Row) -> str:
    """Return as a Markdown table how one row of ours compares with the best setting of each framework."""
    each = " | ".join(f"c = {connections}: best setting | ours by theirs" for connections in LOADS)
    lines = [f"| framework | {each} |", "|" + " --- |" * (2 * len(LOADS) + 1)]
    for framework in dict.fromkeys(row.server.framework for row in rows):
        if framework == OURS:
            continue
        cells = []
        for connections in LOADS:
            row = best(rows, framework, connections)
            found = ratio(ours, row, connections) if row is not None else None
            if row is None or found is None:
                cells += [_NOTHING, _NOTHING]
                continue
            setting = row.server.name.removesuffix(GIVEN).removeprefix(framework.removesuffix(GIVEN)).strip()
            setting = setting or "only one"
            cells += [f"{setting}: {row.median(connections, 'requests_s'):,.0f}", f"{found:.2f}"]
        lines.append(f"| {framework} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Bar:
    """Something to reach."""

    what: str
    wanted: str
    measured: float | None
    """None where it was not measured."""
    reached: bool


def bars(rows: Sequence[Row], ours: Row, *, floor_images_s: float | None) -> list[Bar]:
    """Return what is to be reached with the perceptron, or with ResNet-20 where the floor is given.

    Args:
        rows: of all servers.
        ours: the one configuration that is to reach all of it.
        floor_images_s: images a second of ONNX Runtime alone on the same cores.
    """
    peers = [
        framework for framework in dict.fromkeys(row.server.framework for row in rows) if framework != OURS
    ]
    given = [framework for framework in peers if framework.endswith(GIVEN)]
    peers = [framework for framework in peers if framework not in (*REFERENCES, *given)]

    def least(names: Iterable[str], connections: int) -> float | None:
        found = [
            value
            for name in names
            if (row := best(rows, name, connections)) is not None
            and (value := ratio(ours, row, connections)) is not None
        ]
        return min(found, default=None)

    if floor_images_s is not None:
        rate = ours.median(64, "requests_s")
        share = rate / floor_images_s if rate is not None else None
        return [
            _least("of ONNX Runtime alone, 64 connections", 0.85, share),
            *(_least(f"the best peer, {load} connections", 1.0, least(peers, load)) for load in LOADS),
        ]
    p50, p99 = ours.median(64, "p50_ms"), ours.median(64, "p99_ms")
    tail = p99 / p50 if p50 and p99 else None
    largest = max((ours.median(load, "largest_pss_mb") or 0.0 for load in LOADS), default=0.0)
    modest = [name for name in ("litserve", "bentoml") if name in peers]
    return [
        _least("the best peer, 1 connection", 1.5, least(peers, 1)),
        _least("the best peer, 16 connections", 1.8, least(peers, 16)),
        _least("the best peer, 64 connections", 1.0, least(peers, 64)),
        *(
            _least(f"the best peer that is given our graph, c = {load}", wanted, least(given, load))
            for load, wanted in ((1, 1.5), (16, 1.8), (64, 1.0))
            if given
        ),
        *(_least(f"LitServe and BentoML, {load} connections", 8.0, least(modest, load)) for load in (16, 64)),
        _most("CPU µs a request, 64 connections", 155, ours.median(64, "cpu_us")),
        _most("p50 ms, 1 connection", 0.4, ours.median(1, "p50_ms")),
        _most("p99 by p50, 64 connections", 3.0, tail),
        _most("MB of the largest process", 130, largest or None),
        _most("seconds to the first answer", 1.5, statistics.median(ours.starts) if ours.starts else None),
    ]


def bars_table(found: Iterable[Bar]) -> str:
    """Return the bars as a Markdown table."""
    lines = ["| to reach | wanted | measured | |", "| --- | --- | --- | --- |"]
    for bar in found:
        measured = _NOTHING if bar.measured is None else f"{bar.measured:.2f}"
        verdict = "not measured" if bar.measured is None else "reached" if bar.reached else "**missed**"
        lines.append(f"| {bar.what} | {bar.wanted} | {measured} | {verdict} |")
    return "\n".join(lines)


def floor_of(rounds: Sequence[Mapping[str, float]]) -> tuple[str, float]:
    """Return the best combination of ONNX Runtime alone, and its median images a second over the rounds."""
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    name = max(medians, key=lambda one: medians[one])
    return name, medians[name]


def _least(what: str, wanted: float, measured: float | None) -> Bar:
    return Bar(f"times {what}", f"≥ {wanted:g}", measured, measured is not None and measured >= wanted)


def _most(what: str, wanted: float, measured: float | None) -> Bar:
    return Bar(what, f"≤ {wanted:g}", measured, measured is not None and measured <= wanted)
