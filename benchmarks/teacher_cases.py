"""The teachers that `benchmarks.teacher` asks, with random weights, and the service that answers."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
import numpy as np
from numpy.typing import NDArray

from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Architecture, Mlp, ResNet, Transformers
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.teachers import Nets
from shared.models.checkpoints import stack, to_arrays
from shared.models.network import Network

_MAX_BODY_BYTES: Final = 2**28
"""1,024 images of 224 pixels in one request."""
_START_S: Final = 120


@dataclass(frozen=True)
class Case:
    """A teacher, and what it is called in the table."""

    name: str
    title: str
    architecture: Architecture
    image: ImageInput
    classes: int

    def images(self, rows: int) -> NDArray[np.uint8]:
        """Return random images that it takes."""
        shape = (rows, self.image.height, self.image.width, self.image.channels)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def cases() -> list[Case]:
    """Return the three teachers; without the extra `transformers` a net of ours stands for ResNet-50."""
    large = ImageInput(height=224, width=224, channels=3)
    found = [
        Case(
            "mnist",
            "784-1200-1200-10",
            Mlp(hidden_units=(1200, 1200)),
            ImageInput(height=28, width=28, channels=1),
            10,
        ),
        Case(
            "resnet56",
            "ResNet-56, 32 px",
            ResNet(architecture="resnet56"),
            ImageInput(height=32, width=32, channels=3),
            10,
        ),
    ]
    if importlib.util.find_spec("transformers") is not None:
        config = Transformers(config={"model_type": "resnet"})
        found.append(Case("resnet50", "ResNet-50 (transformers), 224 px", config, large, 1000))
    else:  # 3.4 billion multiply-adds an image, where ResNet-50 has 4.1
        ours = ResNet(architecture="resnet32")
        found.append(Case("resnet50", "ResNet-32 in place of ResNet-50, 224 px", ours, large, 1000))
    return found


def publish(state_dir: Path, case: Case) -> None:
    """Publish a teacher with random weights."""
    network = Network(case.architecture, case.image, case.classes)
    teachers = ArtefactStore(state_dir / "store").teachers
    description = teachers.publish_nets(
        name=case.name,
        model=Nets(architecture=case.architecture),
        tensors=to_arrays(stack([network.initial(0)])),
        classes=tuple(f"class-{number}" for number in range(case.classes)),
        preprocessing=Preprocessing(
            input=case.image, mean=(0.5,) * case.image.channels, std=(0.25,) * case.image.channels
        ),
        test_accuracy=None,
        job_id=None,
        created_at=datetime.now(UTC),
    )
    teachers.make_current(case.name, description.digest)


@contextmanager
def service(state_dir: Path, threads: int, device: str, **settings: str) -> Iterator[str]:
    """Run the real service as a process of its own; yield its address once it is ready."""
    environment = {
        **os.environ,
        "IMAGO_STATE_DIR": str(state_dir),
        "TEACHER_PORT": "0",
        "TEACHER_DEVICE": device,
        "TEACHER_THREADS": str(threads),
        "TEACHER_MAX_BODY_BYTES": str(_MAX_BODY_BYTES),
        **settings,
    }
    log = state_dir / "teacher.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "services.teacher"], env=environment, stderr=stderr)
    try:
        yield _ready(process, log)
    finally:
        process.terminate()
        process.wait(60)


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"event": "listening"' in line:
                url = json.loads(line)["url"]
                if httpx.get(f"{url}/health/ready").status_code == httpx.codes.OK:
                    return url
        time.sleep(0.1)
    raise RuntimeError(f"the service does not get ready:\n{log.read_text()}")
