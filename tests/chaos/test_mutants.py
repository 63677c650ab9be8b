"""Small wrong changes of what durability and security rest on: do the tests notice?"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.equivalent import EQUIVALENT
from tests.chaos.groups import GROUPS
from tests.chaos.mutants import ROOT, mutants_of

pytestmark = pytest.mark.integration

BAR = 85.0
SAMPLES = {"lease": "16", "checkpoint": "40", "auth": "20", "limits": "20"}
"""Mutants of a file; the record's tests take a second each, on a real Redis."""


PROMISES = {"lease": 1, "checkpoint": 2, "auth": 7, "limits": 7}


@pytest.mark.slow
def test_the_tests_notice_small_wrong_changes(
    sized: Callable[[Any, Any], Any], told: Callable[..., None]
) -> None:
    """In a process a group, which forks for each mutant. The small form draws few, of one file."""
    for group in sized(["checkpoint"], list(GROUPS)):
        options = sized(["--only", "artefacts/checkpoints", "--sample", "6"], ["--sample", SAMPLES[group]])
        ran = subprocess.run(
            [sys.executable, "-m", "tests.chaos.mutation", group, *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        print(ran.stdout)
        score, mutants = ran.stdout.splitlines()[-1].split(": ")[1].split(" % of ")
        told(
            PROMISES[group],
            f"mutation score: {group}",
            f"{score} % of {mutants}",
            f"≥ {BAR:.0f} %",
            held=float(score) >= BAR,
        )


def test_what_is_listed_as_equivalent_is_still_there() -> None:
    names = [one.name for targets in GROUPS.values() for target in targets for one in mutants_of(target.path)]
    assert [begin for begin in EQUIVALENT if not any(name.startswith(begin) for name in names)] == []


PYTHON = """
def within(number, low, high):
    "Said of it."
    log.info("asked", extra={"number": 1})
    if not low <= number < high and number != 3:
        raise ValueError(f"not {number + 1}")
    low += 1
    return number * 2
"""

LUA = """
-- ARGV[1] == 1
local function renew(until_s)
  if until_s > 10 and not done then
    redis.call('SET', KEYS[1], 'a == b')
    return until_s + 1
  end
end
"""


def changes(path: Path) -> list[str]:
    made = mutants_of(str(path))
    return sorted(one.name.split(": ", 2)[2] for one in made)


def test_python_is_changed_where_it_behaves_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(PYTHON)
    assert changes(path) == sorted(
        [
            "not low <= number < high and number != 3  →  not (not low <= number < high and number != 3)",
            "not low <= number < high and number != 3  →  not low <= number < high or number != 3",
            "low <= number < high  →  low < number < high",
            "low <= number < high  →  low <= number <= high",
            "number != 3  →  number == 3",
            "3  →  4",
            "3  →  2",
            "raise ValueError(f'not {number + 1}')  →  (left out)",
            "low += 1  →  (left out)",
            "low += 1  →  low -= 1",
            "1  →  2",
            "1  →  0",
            "return number * 2  →  return None",
            "number * 2  →  number / 2",
            "2  →  3",
            "2  →  1",
        ]
    )


def test_lua_is_changed_in_its_code_and_not_in_strings_or_comments(tmp_path: Path) -> None:
    path = tmp_path / "a.lua"
    path.write_text(LUA)
    line = "if until_s > 10 and not done then  →  if until_s {} {} {}done then"
    assert changes(path) == sorted(
        [
            line.format(">=", "10 and", "not "),
            line.format(">", "11 and", "not "),
            line.format(">", "9 and", "not "),
            line.format(">", "10 or", "not "),
            line.format(">", "10 and", ""),
            "redis.call('SET', KEYS[1], 'a == b')  →  redis.call('SET', KEYS[2], 'a == b')",
            "redis.call('SET', KEYS[1], 'a == b')  →  redis.call('SET', KEYS[0], 'a == b')",
            "redis.call('SET', KEYS[1], 'a == b')  →  (left out)",
            "return until_s + 1  →  return until_s - 1",
            "return until_s + 1  →  return until_s + 2",
            "return until_s + 1  →  return until_s + 0",
            "return until_s + 1  →  return nil",
        ]
    )
