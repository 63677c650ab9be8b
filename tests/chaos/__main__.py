"""`python -m tests.chaos`: every chapter at full size, the soak beside them, and the table of figures.

`--write FILE` puts the table between the markers in that file, and each figure beside its mechanism;
`-k WORDS` runs some chapters only.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from tests.chaos.figures import beside_mechanisms, read, table
from tests.support.redis_server import find_redis_server

ROOT = Path(__file__).resolve().parents[2]
SOAK = "tests/chaos/test_soak.py"
ALONE = ["tests/chaos/test_overload.py", "tests/chaos/test_slow_clients.py"]
"""Bars in milliseconds: they come last, when the soak has ended."""
NOTHING_CHOSEN = 5
"""What pytest ends with where `-k` left no test."""
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def machine() -> str:
    """Return what a figure depends on, in words."""
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    redis = subprocess.run(
        [find_redis_server(), "--version"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    version = re.search(r"v=(\S+)", redis)
    return (
        f"{os.cpu_count()} cores of {cpu.group(1) if cpu else platform.machine()}, {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"Redis {version.group(1) if version else redis.strip()}"
    )


def commit() -> str:
    """Return what was run; nothing of it where this is no checkout."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return f" at {described.stdout.strip()}" if described.returncode == 0 else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--write", type=Path, help="a Markdown file with the two markers")
    parser.add_argument("--no-soak", action="store_true", help="leave the half hour out")
    parser.add_argument("-k", default="", help="as of pytest")
    given = parser.parse_args()
    if given.write and (given.k or given.no_soak):
        parser.error("--write is for a whole run: leave out -k and --no-soak")
    what, where = commit(), machine()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="imago-chaos-") as folder:
        figures = Path(folder) / "figures.jsonl"
        environment = {**os.environ, "IMAGO_CHAOS": "full", "IMAGO_CHAOS_FIGURES": str(figures)}
        pytest = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:xdist",
            "-q",
            "-s",
            "--durations=20",
            *(["-k", given.k] if given.k else []),
        ]
        soak_log = Path(folder) / "soak.log"
        soak = None
        if not given.no_soak:
            with soak_log.open("wb") as log:
                soak = subprocess.Popen([*pytest, SOAK], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            others = [f"--ignore={path}" for path in [SOAK, *ALONE]]
            ends = [subprocess.run([*pytest, "tests/chaos", *others], cwd=ROOT, env=environment).returncode]
            if soak is not None:
                ends.append(soak.wait())
                print(soak_log.read_text())
            ends.append(subprocess.run([*pytest, *ALONE], cwd=ROOT, env=environment).returncode)
            failed = any(end != 0 and not (given.k and end == NOTHING_CHOSEN) for end in ends)
        finally:
            if soak is not None and soak.poll() is None:
                soak.terminate()
                soak.wait(timeout=60)
        minutes = (time.monotonic() - began) / 60
        figures_told = read(figures)
    missed = sum(not one.held for one in figures_told)
    options = "".join([f" -k {given.k!r}" if given.k else "", " --no-soak" if given.no_soak else ""])
    report = (
        f"`make chaos`{options}{what}, {datetime.now(UTC):%Y-%m-%d}, {minutes:.0f} minutes, on {where}. "
        f"{len(figures_told)} figures, {missed} below their bar.\n\n{table(figures_told)}"
    )
    print(f"\n{report}")
    if given.write:
        page, _, rest = given.write.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        given.write.write_text(f"{beside_mechanisms(page, figures_told)}{BEGIN}\n{report}{END}{after}")
    return int(failed or missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
