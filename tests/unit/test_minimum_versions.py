"""Versions below which a hole is known: neither installed, nor pinned, nor allowed by pyproject.toml."""

import re
import tomllib
from importlib.metadata import distributions, version
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]

CVE = r"CVE-\d+-\d+"

HOLES = {
    "pillow": ("13.0.0", "CVE-2026-112403: heap overflow in the JPEG decoder; CVE-2026-40192: bombs"),
    "python-multipart": (
        "0.0.30",
        "CVE-2026-53537, CVE-2026-53538: smuggled fields; CVE-2026-24486: paths in names; "
        "CVE-2026-42561: endless headers; CVE-2026-40347, CVE-2024-53981, CVE-2024-24762",
    ),
    "starlette": (
        "1.3.1",
        "CVE-2026-54283: limits of forms that were ignored; CVE-2025-62727: quadratic Range; "
        "CVE-2025-54121, CVE-2024-47874",
    ),
    "h11": ("0.16.0", "CVE-2025-43859: request smuggling"),
    "torch": ("2.10.0", "CVE-2026-24747 and CVE-2025-32434: code run by weights_only=True"),
    "celery": ("5.7.0", "workers that take no more work after Redis was away"),
    "kombu": ("5.7.0", "the same"),
}
"""The first version that mends it all, and what was wrong before; docs/security.md has the same table."""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def allowed() -> dict[str, list[Requirement]]:
    """Return what pyproject.toml asks for, in all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    found: dict[str, list[Requirement]] = {}
    for one in map(Requirement, lines):
        found.setdefault(normalised(one.name), []).append(one)
    return found


def pinned() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {normalised(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("name", HOLES)
def test_what_is_installed_has_no_known_hole(name: str):
    assert Version(version(name)) >= Version(HOLES[name][0]), HOLES[name][1]


@pytest.mark.parametrize("name", HOLES)
def test_what_is_pinned_has_no_known_hole(name: str):
    assert pinned()[name] >= Version(HOLES[name][0]), HOLES[name][1]


@pytest.mark.parametrize("name", HOLES)
def test_an_installation_without_the_pins_has_no_known_hole(name: str):
    bounds = [
        Version(one.version)
        for requirement in allowed()[name]
        for one in requirement.specifier
        if one.operator in (">=", "==")
    ]
    assert len(bounds) == len(allowed()[name]), "each has a lower bound"
    assert min(bounds) >= Version(HOLES[name][0]), HOLES[name][1]


def test_what_is_needed_is_pinned_and_installed_as_it_is_pinned():
    found = {normalised(one.metadata["Name"]): Version(one.version) for one in distributions()}
    pins = pinned()
    # Without what a build adds to its number, such as +cpu.
    assert {name for name in found.keys() & pins.keys() if found[name].public != pins[name].public} == set()
    needed = {normalised(one.name) for some in allowed().values() for one in some}
    assert needed - pins.keys() == set()


def test_the_page_on_security_has_the_same_table():
    page = (ROOT / "docs/security.md").read_text()
    section = page.split("\n## Known holes of what we stand on\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    told = {normalised(name): (least, set(re.findall(CVE, why))) for name, least, why in cells[2:]}
    # What is no package of pip's: nothing here could hold it to a version.
    assert {"python", "redis"} <= told.keys()
    packages = {name: row for name, row in told.items() if name not in ("python", "redis")}
    assert packages == {name: (least, set(re.findall(CVE, why))) for name, (least, why) in HOLES.items()}
