"""Runs the matching tests against mutants, each in a fork of one process that has imported all libraries.

`python -m tests.chaos.mutation GROUP [--sample N]` prints the score of a group and every mutant that no test
noticed. A mutant is killed where a test fails, where it cannot be imported, or where the tests take far
longer than they should.
"""

import argparse
import contextlib
import importlib
import os
import pathlib
import random
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.chaos.equivalent import reason_why_equivalent
from tests.chaos.groups import GROUPS, Target
from tests.chaos.mutants import ROOT, Mutant, mutants_of

_OURS = ("shared", "services", "tests", "experiments")
_SLOWEST_S = 30.0
"""Beyond three times what the undisturbed tests take, and this, a mutant loops."""


@dataclass
class Score:
    """What became of the mutants of one group; those that change nothing are in none of these."""

    killed: int = 0
    survived: list[Mutant] = field(default_factory=list)

    @property
    def percent(self) -> float:
        return 100 * self.killed / max(1, self.killed + len(self.survived))


def drawn(target: Target, sample: int | None, seed: int) -> list[Mutant]:
    """Return the mutants of a file that count, or so many of them, drawn by the seed."""
    mutants = [one for one in mutants_of(target.path) if _counts(one, target)]
    if sample is None or len(mutants) <= sample:
        return mutants
    return random.Random(seed).sample(mutants, sample)


def _counts(mutant: Mutant, target: Target) -> bool:
    return reason_why_equivalent(mutant.name) is None and mutant.where.startswith(target.only or "")


def run(target: Target, mutants: Sequence[Mutant], at_once: int = 2) -> Iterator[tuple[Mutant, bool]]:
    """Yield each mutant with whether a test noticed, as they end.

    Everything happens in a fork of this process, so that what the tests import stays out of it.
    """
    reading, writing = os.pipe()
    server = os.fork()
    if server == 0:
        os.close(reading)
        code = 1
        try:
            os.setsid()
            _serve(target, mutants, at_once, writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    try:
        with os.fdopen(reading) as told:
            for line in told:
                if line.startswith("!"):
                    raise RuntimeError(f"the tests of {target.path} do not pass as they are: {line[1:]}")
                number, status = line.split()
                yield mutants[int(number)], status != "0"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server, signal.SIGKILL)
        os.waitpid(server, 0)


def _serve(target: Target, mutants: Sequence[Mutant], at_once: int, writing: int) -> None:
    warm_up(target)
    began = time.monotonic()
    undisturbed = _wait({_fork(target, None): (0, began + 600)})
    if undisturbed[1] != 0:
        os.write(writing, f"!status {undisturbed[1]}\n".encode())
        return
    limit_s = _SLOWEST_S + 3 * (time.monotonic() - began)
    running: dict[int, tuple[int, float]] = {}
    waiting = list(enumerate(mutants))
    while waiting or running:
        while waiting and len(running) < at_once:
            number, mutant = waiting.pop(0)
            running[_fork(target, mutant)] = (number, time.monotonic() + limit_s)
        number, status = _wait(running)
        os.write(writing, f"{number} {status}\n".encode())


def _wait(running: dict[int, tuple[int, float]]) -> tuple[int, int]:
    """Return the number and the status of the next that ends; those beyond their time are killed."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            number, _ = running.pop(pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what its tests have started
            return number, os.waitstatus_to_exitcode(status)
        for pid, (_, until) in running.items():
            if time.monotonic() > until:
                os.killpg(pid, signal.SIGKILL)
        select.select([], [], [], 0.02)


def warm_up(target: Target) -> None:
    """Import every library that the tests do, and nothing of ours."""
    reading, writing = os.pipe()
    scout = os.fork()
    if scout == 0:
        os.close(reading)
        _quiet()
        _pytest(target, ["--collect-only"])
        names = [name for name in sys.modules if name.split(".")[0] not in _OURS and name != "__main__"]
        with os.fdopen(writing, "w") as file:
            file.write("\n".join(names))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        names = file.read().split()
    os.waitpid(scout, 0)
    for name in names:
        # Some exist only as an attribute of another, or refuse to come alone.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _fork(target: Target, mutant: Mutant | None) -> int:
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setpgid(0, 0)
            _quiet()
            for name in [name for name in sys.modules if name.split(".")[0] in _OURS]:
                del sys.modules[name]
            code = _pytest(target, [], _Changed(mutant) if mutant is not None else None)
        finally:
            os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    return pid


def _pytest(target: Target, options: list[str], plugin: object = None) -> int:
    import pytest

    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options, *target.tests]
    # Plugins are among the libraries that were imported beforehand.
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    if target.keyword:
        arguments += ["-k", target.keyword]
    os.chdir(ROOT)
    code = int(pytest.main(arguments, plugins=[plugin] if plugin is not None else []))
    # No tests at all would kill nothing and look like health.
    return 0 if code == 0 else max(code, 1)


def _quiet() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


class _Changed(MetaPathFinder, Loader):
    """A plugin of pytest that puts a mutant in the place of its file, for whoever imports or reads it."""

    def __init__(self, mutant: Mutant) -> None:
        self._path = ROOT / mutant.path
        self._source = mutant.source
        self._module = mutant.path.removesuffix(".py").replace("/", ".")
        sys.meta_path.insert(0, self)
        if mutant.path.endswith(".lua"):
            self._answer_reads()

    def pytest_sessionstart(self) -> None:
        # The checker of tensor shapes has put itself first meanwhile, and would read the file itself.
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._module:
            return None
        return spec_from_file_location(name, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, str(self._path), "exec"), module.__dict__)

    def _answer_reads(self) -> None:
        read_text = pathlib.Path.read_text

        def read(path: Path, *given: Any, **named: Any) -> str:
            return self._source if path == self._path else read_text(path, *given, **named)

        pathlib.Path.read_text = read  # type: ignore[method-assign, assignment]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutation", description=__doc__)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--sample", type=int, help="so many a file")
    parser.add_argument("--only", default="", help="files whose name contains this")
    parser.add_argument("--seed", type=int, default=6)
    given = parser.parse_args()
    total, made = Score(), 0
    for target in GROUPS[given.group]:
        if given.only not in target.path:
            continue
        began, score = time.monotonic(), Score()
        mutants = drawn(target, given.sample, given.seed)
        made += len(drawn(target, None, given.seed))
        for mutant, killed in run(target, mutants):
            if killed:
                score.killed += 1
            else:
                score.survived.append(mutant)
                print(f"  survived, line {mutant.line}: {mutant.name}", flush=True)
        print(
            f"{target.path}: {score.killed} of {len(mutants)}, {score.percent:.0f} %, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
        total.killed += score.killed
        total.survived += score.survived
    asked = total.killed + len(total.survived)
    print(f"{given.group}: {total.percent:.1f} % of {asked} mutants, drawn of {made}")


if __name__ == "__main__":
    main()
