"""What pages tell one to type: the chores of the Makefile, which do not take a failure for done, and curl."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHORES = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("chore", [one for one in CHORES if one != "help"])
def test_a_chore_stands_in_the_table_of_those_who_contribute(chore: str):
    assert f"`make {chore}`" in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_a_chore_that_a_page_names_is_there(page: str):
    text = (ROOT / page).read_text()
    named = re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE)
    assert named
    assert [one for one in named if one not in CHORES] == []


def test_an_audit_whose_tool_could_not_be_installed_finds_no_hole(tmp_path: Path):
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    # `python -m venv FOLDER` makes one whose pip reaches no index.
    python.write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"\n'
        'printf "#!/bin/sh\\necho no index answers >&2\\nexit 1\\n" > "$3/bin/python"\n'
        'chmod +x "$3/bin/python"\n'
    )
    python.chmod(0o755)
    for _ in range(2):
        done = subprocess.run(
            ["make", "-f", str(ROOT / "Makefile"), "-C", str(tmp_path), "audit"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert "no index answers" in done.stderr
        assert "a hole was found" not in done.stderr


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{one.name}" for one in ROOT.glob("docs/*.md"))])
def test_a_body_that_a_page_posts_is_named_by_its_type(page: str):
    # Without a word curl says that it sends a form, which /v1 refuses with 415.
    lines = (ROOT / page).read_text().replace("\\\n", " ").splitlines()
    posted = [line for line in lines if re.search(r"curl .*/v1/", line) and re.search("--data| -d ", line)]
    assert [line for line in posted if "Content-Type" not in line] == []
