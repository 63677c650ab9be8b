"""`make sbom` lists every distribution that is installed."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_list_of_materials_has_every_installed_distribution_in_its_version(tmp_path: Path):
    file = tmp_path / "sbom.cdx.json"
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if "cyclonedx-py" in line)
    words = line.split()[1:]
    words[words.index("-o") + 1] = str(file)
    words[words.index("$(BIN)/python")] = sys.executable
    tool = Path(sys.executable).with_name("cyclonedx-py")
    subprocess.run([str(tool), *words], cwd=ROOT, check=True, capture_output=True, timeout=120)
    bom = json.loads(file.read_text())
    assert bom["bomFormat"] == "CycloneDX"
    # The project is what the list is of.
    listed = {(normalised(one["name"]), one["version"]) for one in bom["components"]}
    listed.add((normalised(bom["metadata"]["component"]["name"]), importlib.metadata.version("imago")))
    installed = {
        (normalised(one.metadata["Name"]), one.version) for one in importlib.metadata.distributions()
    }
    assert installed - listed == set()
