"""What machine this is and which commit: facts that a figure is worth little without."""

import os
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

from experiments.result import Machine
from shared.contracts.reports import JobReport

_ROOT = Path(__file__).resolve().parents[1]


def machine_of(reports: Sequence[JobReport]) -> Machine:
    """Return this machine, and what devices the jobs' reports name."""
    return Machine(
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        devices=tuple(
            sorted({f"{report.cost.device}, {report.cost.threads} thread(s)" for report in reports})
        ),
        torch=", ".join(sorted({report.cost.torch for report in reports})),
    )


def commit() -> str:
    """Return the commit of the working tree, `+` behind it where code differs; or the version outside one."""
    found = _git("rev-parse", "HEAD")
    if not found:
        return f"imago {version('imago')}"
    changed = _git("status", "--porcelain", "--", "services", "shared", "experiments")
    return f"{found[:12]}{'+' if changed else ''}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {name.strip(): value.strip() for name, value in facts.items()}
    features = {"avx512f": "AVX-512", "avx2": "AVX2", "amx_bf16": "AMX"}
    flags = known.get("flags", "").split()
    has = [words for flag, words in features.items() if flag in flags]
    return (
        f"{known.get('model name', 'unknown')} ({', '.join(has)})"
        if has
        else known.get("model name", "unknown")
    )


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - nothing of a user's is among the arguments
            ["git", "-C", str(_ROOT), *arguments],  # noqa: S607 - whichever git is on the path
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
