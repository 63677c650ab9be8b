import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
NOT_FOR_SERVING = {
    "celery",
    "fsspec",
    "httpx",
    "kombu",
    "matplotlib",
    "onnx",
    "pandas",
    "pyarrow",
    "redis",
    "requests",
    "rich",
    "scipy",
    "torch",
    "yaml",
}
BUILD = """
import json, sys
from services.gateway.app import from_environment
from services.gateway.hot import protocol
from_environment()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_the_gateway_starts_without_what_serving_does_not_need(tmp_path):
    """Each of these costs a tenth of a second or more, before the first request can be answered."""
    built = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=ROOT,
        env={"IMAGO_STATE_DIR": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not NOT_FOR_SERVING & set(json.loads(built.stdout.splitlines()[-1]))


def test_the_process_that_watches_over_others_loads_no_app():
    watching = (
        "import sys, services.gateway.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", watching], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not (NOT_FOR_SERVING | {"fastapi", "numpy", "onnxruntime", "PIL"}) & set(loaded.stdout.split())


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"GATEWAY_HOST": "0.0.0.0"}, "GATEWAY_HOST: 0.0.0.0 is no loopback address"),
        ({"IMAGO_AUTH": "keys"}, "IMAGO_AUTH: it is keys, and there is no valid key"),
        ({"IMAGO_AUTH": "perhaps"}, "IMAGO_AUTH: "),
        (
            {"IMAGO_AUTH": "keys", "IMAGO_ADMIN_KEY_FILE": "/no/such/file"},
            "IMAGO_ADMIN_KEY_FILE: /no/such/file",
        ),
    ],
)
def test_a_gateway_that_anybody_or_nobody_could_ask_does_not_start(tmp_path, environment, line):
    started = subprocess.run(
        [sys.executable, "-m", "services.gateway"],
        cwd=ROOT,
        env={"IMAGO_STATE_DIR": str(tmp_path), "GATEWAY_PORT": "0", "PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert started.returncode == 2
    assert started.stderr.splitlines()[-1].startswith(line)
