"""A student to serve and an image to ask it about: real graphs as jobs export them, with weights by chance.

What a student has learned does not change what it costs, so nothing is trained here.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Architecture, Mlp, ResNet
from shared.contracts.images import ImageInput, Preprocessing
from shared.distillation.export import export_onnx
from shared.models.checkpoints import load_into
from shared.models.network import Network
from tests.support.student_bundles import DIGITS, write_bundle

VERSION = "benchmark-1"


@dataclass(frozen=True)
class Workload:
    """A net and the size of its images."""

    architecture: Architecture
    image: ImageInput

    def png(self) -> bytes:
        """Return an image such as clients send: a stroke on black, as PNG."""
        rows, columns = np.mgrid[0 : self.image.height, 0 : self.image.width] / self.image.height
        ring = (rows - 0.5) ** 2 + (columns - 0.5) ** 2
        pixels = np.round(255 * np.exp(-((ring - 0.07) ** 2) / 0.0006)).astype(np.uint8)
        if self.image.channels == 3:
            pixels = np.stack([pixels, np.roll(pixels, 3, 0), pixels.T // 2], axis=2)
            # A photograph has grain, and compresses badly.
            pixels += np.random.default_rng(0).integers(0, 32, pixels.shape, dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        return out.getvalue()


WORKLOADS = {
    "mlp": Workload(Mlp(hidden_units=(800, 800)), ImageInput(height=28, width=28, channels=1)),
    "resnet20": Workload(ResNet(architecture="resnet20"), ImageInput(height=32, width=32, channels=3)),
}


def promoted(workload: Workload, state_dir: Path) -> Path:
    """Make a store with one promoted student and return the path of its graph."""
    channels = workload.image.channels
    preprocessing = Preprocessing(input=workload.image, mean=(0.2,) * channels, std=(0.3,) * channels)
    network = Network(workload.architecture, workload.image, len(DIGITS))
    module = load_into(network.module(), network.initial(0))
    graph = state_dir / "model.onnx"
    export_onnx(module, preprocessing, DIGITS, graph)
    students = ArtefactStore(state_dir / "store").students
    students.publish(
        VERSION, lambda at: write_bundle(at, VERSION, graph.read_bytes(), image=workload.image) and None
    )
    students.promote(VERSION)
    return graph
