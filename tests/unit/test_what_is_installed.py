"""The gateway's image and the command line are installed without the extras of teacher and worker."""

import importlib.metadata
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

OURS = {"services", "shared", "experiments", "tests"}
BLOCKED = """
import importlib.abc, sys
missing = set({missing!r})
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"{{name}} is not installed with the project alone", name=name)
sys.meta_path.insert(0, Missing())
import {module}
"""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(distribution: str, extras: frozenset[str], found: dict[str, frozenset[str]]) -> None:
    """Collect what an installation of a distribution brings, with the extras that it is asked for."""
    if distribution in found and extras <= found[distribution]:
        return
    found[distribution] = found.get(distribution, frozenset()) | extras
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for text in requirements:
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            needed(normalised(one.name), frozenset(one.extras), found)


@pytest.mark.parametrize("module", ["services.gateway.app", "services.cli.app"])
def test_a_plain_installation_has_all_that_is_imported(module):
    found: dict[str, frozenset[str]] = {}
    needed("imago", frozenset(), found)
    missing = sorted(
        package
        for package, distributions in importlib.metadata.packages_distributions().items()
        if package not in OURS and not any(normalised(one) in found for one in distributions)
    )
    assert "torch" in missing
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(missing=missing, module=module)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
