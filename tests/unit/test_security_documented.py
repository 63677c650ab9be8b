"""docs/security.md names files and tests that exist, and every risk of OWASP's list with a test."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
FILES = sorted(set(re.findall(r"`((?:services|shared|tests)/[\w/.-]+\.\w+|[\w.-]+\.(?:yml|txt))[`:]", PAGE)))


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """Return the cells of the rows of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.parametrize(("file", "test"), TESTS)
def test_a_test_that_the_page_names_exists(file: str, test: str):
    assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_the_page_names_exists(file: str):
    assert (ROOT / file).is_file()


def test_every_risk_of_the_list_has_a_mechanism_and_a_test():
    found = rows("OWASP API Security Top 10 (2023)")
    assert [row[0].split()[0] for row in found] == [f"API{number}" for number in range(1, 11)]
    assert all(len(row) == 3 and "`tests/" in row[2] for row in found)


def test_every_attempt_is_stopped_somewhere_and_a_test_says_so():
    found = rows("What an attacker can try")
    assert len(found) > 20
    assert all(len(row) == 4 and "`tests/" in row[3] and "." in row[2] for row in found)


def test_what_is_not_prevented_is_said():
    said = section("A model can be copied by asking it")
    assert said.count("Nothing here prevents that") == 2
