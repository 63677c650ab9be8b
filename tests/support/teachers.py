"""Small random teachers in a store, what they must answer by the formula, and the service as a process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
from numpy.typing import NDArray

from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.teachers import Nets, TeacherDescription
from tests.support.redis_server import _die_with_parent

CLASSES = ("circle", "cross", "square", "star")
INPUT = ImageInput(height=6, width=5, channels=1)
PREPROCESSING = Preprocessing(input=INPUT, mean=(0.25,), std=(0.5,))

Tensors = dict[str, NDArray[np.float32]]


def random_tensors(
    *,
    members: int = 1,
    seed: int = 0,
    hidden: tuple[int, ...] = (16,),
    size: ImageInput = INPUT,
    classes: int = 4,
) -> Tensors:
    """Return the weights of a random perceptron with a leading dimension of members."""
    generator = np.random.default_rng(seed)
    units = (size.values, *hidden, classes)
    tensors: Tensors = {}
    for layer in range(len(units) - 1):
        shape = (members, units[layer + 1], units[layer])
        scale = np.sqrt(2 / units[layer])
        tensors[f"layers.{layer}.weight"] = generator.normal(0, scale, shape).astype(np.float32)
        tensors[f"layers.{layer}.bias"] = generator.normal(0, 0.1, shape[:2]).astype(np.float32)
    return tensors


def publish(
    store: Path,
    name: str = "shapes",
    *,
    tensors: Tensors | None = None,
    members: int = 1,
    merge: Literal["geometric", "arithmetic"] = "geometric",
    seed: int = 0,
    **changes: Any,
) -> TeacherDescription:
    """Publish a teacher in the store under `store` and let it answer under its name."""
    teachers = ArtefactStore(store).teachers
    fields: dict[str, Any] = {
        "name": name,
        "tensors": random_tensors(members=members, seed=seed) if tensors is None else tensors,
        "classes": CLASSES,
        "preprocessing": PREPROCESSING,
        "test_accuracy": 0.5,
        "job_id": None,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    nets = {
        "architecture": Mlp(hidden_units=(16,)),
        "members": members,
        "merge": merge,
        **{option: changes.pop(option) for option in ("architecture", "specialists") if option in changes},
    }
    description = teachers.publish_nets(**{"model": Nets(**nets), **fields, **changes})
    teachers.make_current(name, description.digest)
    return description


def random_images(rows: int, *, seed: int = 0, size: ImageInput = INPUT) -> NDArray[np.uint8]:
    """Return uint8 images, N x H x W x C."""
    shape = (rows, size.height, size.width, size.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def expected_logits(
    tensors: Tensors, images: NDArray[np.uint8], *, temperature: float, merge: str = "geometric"
) -> NDArray[np.float64]:
    """Return merged z/T with zero mean in each row, by the formula and in float64."""
    pixels = (images.astype(np.float64) / 255 - PREPROCESSING.mean) / PREPROCESSING.std
    members = next(iter(tensors.values())).shape[0]
    softened = []
    for member in range(members):
        hidden = pixels.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for layer in range(len(tensors) // 2):
            weight = tensors[f"layers.{layer}.weight"][member].astype(np.float64)
            hidden = hidden @ weight.T + tensors[f"layers.{layer}.bias"][member]
            if layer < len(tensors) // 2 - 1:
                hidden = np.maximum(hidden, 0)
        softened.append(hidden / temperature)
    stacked = np.stack(softened)
    merged = np.log(softmax(stacked).mean(0)) if merge == "arithmetic" else stacked.mean(0)
    return np.asarray(merged - merged.mean(-1, keepdims=True))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return softmax over the last dimension."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))


def start_teacher(state_dir: Path, **variables: str) -> tuple["subprocess.Popen[bytes]", str]:
    """Start `python -m services.teacher` on a free port; return it and its address once it is ready."""
    environment = {
        **os.environ,
        "IMAGO_STATE_DIR": str(state_dir),
        "TEACHER_PORT": "0",
        "TEACHER_DEVICE": "cpu",
        "TEACHER_THREADS": "1",
        **variables,
    }
    state_dir.mkdir(parents=True, exist_ok=True)
    log = state_dir / "teacher.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.teacher"],
            env=environment,
            stderr=stderr,
            cwd=Path(__file__).resolve().parents[2],
            preexec_fn=_die_with_parent,
        )
    try:
        return process, _wait_until_ready(process, log)
    except BaseException:
        stop(process)
        raise


@contextmanager
def teacher_process(state_dir: Path, **variables: str) -> Iterator[str]:
    """Run the service as `start_teacher` does; yield its address and stop it in the end."""
    process, url = start_teacher(state_dir, **variables)
    try:
        yield url
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process, gently first."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            if '"event": "listening"' in line:
                url = json.loads(line)["url"]
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    return url
        time.sleep(0.05)
    raise TimeoutError(log.read_text())
