"""`python -m tests.chaos`: every chapter at full size, the soak beside them, and the table of figures.

`--write FILE` puts the table between the markers in that file; `-k WORDS` runs some chapters only.
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

from tests.chaos.figures import read, table

ROOT = Path(__file__).resolve().parents[2]
SOAK = "tests/chaos/test_soak.py"
NOTHING_CHOSEN = 5
"""What pytest ends with where `-k` left no test."""
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--write", type=Path, help="a Markdown file with the two markers")
    parser.add_argument("--no-soak", action="store_true", help="leave the half hour out")
    parser.add_argument("-k", default="", help="as of pytest")
    given = parser.parse_args()
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
            failed = subprocess.run(
                [*pytest, "tests/chaos", f"--ignore={SOAK}"], cwd=ROOT, env=environment, check=False
            ).returncode
            if soak is not None:
                soaked = soak.wait()
                print(soak_log.read_text())
                if given.k and soaked == NOTHING_CHOSEN:
                    soaked = 0
                failed = failed or soaked
        finally:
            if soak is not None and soak.poll() is None:
                soak.terminate()
                soak.wait(timeout=60)
        minutes = (time.monotonic() - began) / 60
        report = (
            f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, "
            f"Python {platform.python_version()}, {minutes:.0f} minutes: `make chaos`\n\n"
            f"{table(read(figures))}"
        )
    print(f"\n{report}")
    if given.write:
        text = given.write.read_text()
        given.write.write_text(
            re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{report}{END}", text, flags=re.DOTALL)
        )
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
