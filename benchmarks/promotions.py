"""Promotions under load: `python -m benchmarks.promotions [--promotions 200 --corrupt 20 --connections 16]`.

A gateway of two processes, without a Redis, serves a student of the size of the benchmarks. Connections ask
for predictions without a pause and check each answer: the version that it names must have said it of that
very image. Meanwhile students are promoted one after the other, each as soon as every connection was answered
by the one before; some promotions are of a bundle that is broken in one of five ways, and must be refused.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median

from shared.artefacts.store import ArtefactStore
from tests.support.gateway_process import GatewayProcess
from tests.support.promotions import Outcome, promote_under_load, publish_students

_HIDDEN = (800, 800)
_NOWHERE = "redis://127.0.0.1:1/0"


def main() -> None:
    """Run it, print what was counted, and fail where an answer did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--promotions", type=int, default=200, help="with the corrupt ones")
    parser.add_argument("--corrupt", type=int, default=20)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        students = publish_students(ArtefactStore(Path(state) / "store"), hidden=_HIDDEN)
        gateway = GatewayProcess(Path(state), _NOWHERE, GATEWAY_PROCESSES=str(given.processes)).start()
        try:
            outcome = asyncio.run(
                promote_under_load(
                    gateway.port,
                    students,
                    connections=given.connections,
                    promotions=given.promotions,
                    corrupt=given.corrupt,
                )
            )
        finally:
            gateway.stop()
    _print(outcome)
    for wrong in (outcome.failed + outcome.mixed)[:10]:
        print(wrong, file=sys.stderr)
    if outcome.failed or outcome.mixed:
        raise SystemExit(1)


def _print(outcome: Outcome) -> None:
    rows = {
        "promotions": outcome.promoted,
        "refused": sum(outcome.refused.values()),
        "answers": outcome.requests,
        "failed answers": len(outcome.failed),
        "mixed answers": len(outcome.mixed),
        "answers by version": ", ".join(f"{name} {n}" for name, n in sorted(outcome.by_version.items())),
        "requests per second": f"{outcome.requests / outcome.seconds:.0f}",
        "slowest answer, ms": f"{1000 * outcome.slowest_s:.0f}",
        "every process follows, s (median, slowest)": f"{median(outcome.followed_s):.2f}, "
        f"{max(outcome.followed_s):.2f}",
        "seconds": f"{outcome.seconds:.0f}",
    }
    for name, value in rows.items():
        print(f"{name:>43}: {value}")


if __name__ == "__main__":
    main()
