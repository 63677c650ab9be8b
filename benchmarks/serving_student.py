"""The students that are served: graphs as jobs export them, promoted in a store of their own.

The perceptron has learned the 5,000 digits that come with the installation for a few seconds, so that the
export stage can choose its graph as it does in a job: by agreement and time. ResNet-20 has weights by chance,
since what a net has learned does not change what it costs; its graph is the float32 one.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from shared.artefacts.files import sha256_bytes
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Architecture, Mlp, ResNet
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.served_graphs import REFERENCE, GraphChoice
from shared.contracts.students import SAMPLES, BundleFile
from shared.datasets.builtin import load_builtin
from shared.distillation.export import choose_served_graph, export_onnx
from shared.models.checkpoints import load_into
from shared.models.network import Network
from shared.models.normalise import normalise
from tests.support.student_bundles import DIGITS, card

VERSION = "benchmark-1"
FLOAT32 = "float32"
SERVED = "served"
_HELD_OUT = 1_000
_EPOCHS = 6
_BATCH = 128
_ASKED = 8
_THREADS = 2


@dataclass(frozen=True)
class Workload:
    """A net and the size of its images."""

    architecture: Architecture
    image: ImageInput
    title: str


WORKLOADS = {
    "mlp": Workload(
        Mlp(hidden_units=(800, 800)),
        ImageInput(height=28, width=28, channels=1),
        "784-800-800-10, PNG of 28 x 28 grey",
    ),
    "resnet20": Workload(
        ResNet(architecture="resnet20"),
        ImageInput(height=32, width=32, channels=3),
        "ResNet-20, PNG of 32 x 32 RGB",
    ),
}


@dataclass(frozen=True)
class Student:
    """A promoted student in each of its graphs."""

    workload: Workload
    graphs: dict[str, Path]
    """The ONNX files: `float32`, and `served` where the export stage chose another one."""
    states: dict[str, Path]
    """State directories of gateways that serve them."""
    choice: GraphChoice | None
    pngs: tuple[bytes, ...]
    """Images to ask about."""
    expected: tuple[tuple[int, float], ...]
    """What the float32 graph says of each: its class and the probability of it."""


def promoted(name: str, at: Path) -> Student:
    """Make the student of a workload in the directory `at`, which is there, and promote it."""
    torch.set_num_threads(_THREADS)
    workload = WORKLOADS[name]
    bundle = at / "bundle"
    bundle.mkdir()
    network = Network(workload.architecture, workload.image, len(DIGITS))
    module = load_into(network.module(), network.initial(0))
    channels = workload.image.channels
    preprocessing = Preprocessing(input=workload.image, mean=(0.2,) * channels, std=(0.3,) * channels)
    choice = None
    if name == "mlp":
        images, labels = _digits()
        _learn(module, preprocessing, images[_HELD_OUT:], labels[_HELD_OUT:])
        export_onnx(module, preprocessing, DIGITS, bundle / REFERENCE)
        choice = choose_served_graph(
            bundle, module, preprocessing, DIGITS, images[:_HELD_OUT], labels[:_HELD_OUT]
        )
        asked = images[:_ASKED]
    else:
        export_onnx(module, preprocessing, DIGITS, bundle / REFERENCE)
        asked = _pictures(workload.image)
    graphs = {FLOAT32: bundle / REFERENCE}
    if choice is not None and choice.file != REFERENCE:
        graphs[SERVED] = bundle / choice.file
    states = {}
    for graph in graphs:
        states[graph] = at / f"state-{graph}"
        _publish(states[graph], bundle, workload, choice if graph == SERVED else None)
    return Student(
        workload, graphs, states, choice, tuple(map(_png, asked)), _answers(graphs[FLOAT32], asked)
    )


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    splits, _, _ = load_builtin("mnist-5k", None)
    images = np.concatenate([split.images for split in splits.values()])
    labels = np.concatenate([split.labels for split in splits.values() if split.labels is not None])
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order]


def _learn(
    module: torch.nn.Module,
    preprocessing: Preprocessing,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> None:
    inputs = normalise(torch.from_numpy(images), preprocessing)
    targets = torch.from_numpy(labels)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    module.train()
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(inputs), generator=generator).split(_BATCH):
            optimiser.zero_grad()
            F.cross_entropy(module(inputs[rows]), targets[rows]).backward()
            optimiser.step()
    module.eval()


def _pictures(image: ImageInput) -> NDArray[np.uint8]:
    """Return rings with grain, which compress as badly as photographs."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[0 : image.height, 0 : image.width] / image.height
    pictures = []
    for _ in range(_ASKED):
        centre = generator.uniform(0.3, 0.7, (2, image.channels))
        distance = (rows[..., None] - centre[0]) ** 2 + (columns[..., None] - centre[1]) ** 2
        smooth = 224 * np.exp(-((distance - 0.07) ** 2) / generator.uniform(0.0006, 0.02))
        pictures.append(smooth + generator.integers(0, 32, smooth.shape))
    return np.stack(pictures).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def _answers(graph: Path, images: NDArray[np.uint8]) -> tuple[tuple[int, float], ...]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": np.ascontiguousarray(images)})
    return tuple((int(row.argmax()), float(row.max())) for row in probabilities)


def _publish(state_dir: Path, bundle: Path, workload: Workload, choice: GraphChoice | None) -> None:
    names = [REFERENCE] if choice is None else [REFERENCE, choice.file, SAMPLES]
    contents = {name: (bundle / name).read_bytes() for name in names}
    described = card(VERSION, contents[REFERENCE], image=workload.image).model_copy(
        update={
            "architecture": workload.architecture,
            "preprocessing": Preprocessing(
                input=workload.image,
                mean=(0.2,) * workload.image.channels,
                std=(0.3,) * workload.image.channels,
            ),
            "graphs": choice,
            "files": {
                name: BundleFile(sha256=sha256_bytes(content), size_bytes=len(content))
                for name, content in contents.items()
            },
        }
    )

    def write(folder: Path) -> None:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        (folder / "card.json").write_text(described.model_dump_json())

    students = ArtefactStore(state_dir / "store").students
    students.publish(VERSION, write)
    students.promote(VERSION)
