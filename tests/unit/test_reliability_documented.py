"""docs/reliability.md names tests and files that exist, every chapter of the suite, and README's promises."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
FILES = sorted(set(re.findall(r"`((?:services|shared|tests)/[\w/.-]+\.\w+)`", PAGE)))
CHAPTERS = sorted(path.name for path in (ROOT / "tests/chaos").glob("test_*.py"))


@pytest.mark.parametrize(("file", "test"), TESTS)
def test_a_test_that_the_page_names_exists(file: str, test: str) -> None:
    assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_the_page_names_exists(file: str) -> None:
    assert (ROOT / file).is_file()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_chapter_of_the_suite_is_left_out(chapter: str) -> None:
    assert any(file.endswith(f"/{chapter}") for file, _ in TESTS)


def test_every_promise_has_a_mechanism_with_a_test() -> None:
    mechanisms = PAGE.partition("## Figures")[0]
    rows = [line.split(" | ") for line in mechanisms.splitlines() if re.match(r"\| (\d|all) \|", line)]
    assert {row[0].strip("| ") for row in rows} >= set("1234567")
    assert all("::test_" in row[3] for row in rows)


def test_the_readme_makes_the_same_promises() -> None:
    def promises(text: str) -> list[str]:
        """Return the items that begin with words in bold, each on one line."""
        items = re.findall(r"^\d\. \*\*.*(?:\n {3}\S.*)*", text, re.MULTILINE)
        return [" ".join(item.split()) for item in items]

    promised = promises(PAGE)
    assert [item[0] for item in promised] == list("1234567")
    readme = (ROOT / "README.md").read_text()
    assert promises(readme) == promised
    assert "(docs/reliability.md)" in readme


def test_what_is_said_of_power_keeps_to_what_redis_promises() -> None:
    assert "power within what `appendfsync` promises" in " ".join(PAGE.split())
    assert "**Power cuts were not tried.**" in PAGE
