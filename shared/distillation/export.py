"""The student as served: one ONNX file from uint8 images to logits and probabilities at T = 1.

Preprocessing is part of the graph, so nobody who serves the file can get it wrong.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from jaxtyping import Int64, UInt8
from onnx import helper
from torch import Tensor, nn

from shared.artefacts.files import write_atomic
from shared.artefacts.tensors import write_tensors
from shared.contracts.architectures import ARCHITECTURES
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.served_graphs import REFERENCE, GraphChoice
from shared.contracts.students import SAMPLES, Latency
from shared.distillation.graph_choice import choose_graph
from shared.distillation.onnx_graphs import folded_graph, served_graph
from shared.distillation.onnx_tracing import traced_graph
from shared.errors import ParityFailed, UnknownArchitecture
from shared.models.cnn import Cnn
from shared.models.foreign import ForeignNet
from shared.models.mlp import Mlp
from shared.models.normalise import normalise
from shared.models.resnet import ResNet
from shared.processor import session_entries

PARITY_TOLERANCE = 1e-3
_SAMPLES = 32


def export_onnx(module: nn.Module, preprocessing: Preprocessing, classes: Sequence[str], path: Path) -> None:
    """Write a student as one self-contained float32 ONNX file.

    Input `images`: uint8, batch x height x width x channels, any batch. Outputs `logits` and
    `probabilities`: float32, batch x classes, at T = 1. The class names are in the metadata, as JSON under
    `classes`.

    Raises:
        UnknownArchitecture: there is no way to write this kind of module.
    """
    if isinstance(module, Mlp | Cnn | ResNet):
        model = served_graph(module, preprocessing, classes)
    elif isinstance(module, ForeignNet):
        model = traced_graph(module, preprocessing)
    else:
        raise UnknownArchitecture(type(module).__name__, ARCHITECTURES)
    helper.set_model_props(model, {"classes": json.dumps(list(classes), ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, model.SerializeToString(deterministic=True))


def parity(
    path: Path,
    module: nn.Module,
    preprocessing: Preprocessing,
    images: UInt8[Tensor, "rows height width channels"],
    *,
    tolerance: float = PARITY_TOLERANCE,
) -> float:
    """Return the largest difference between ONNX and PyTorch logits on the images.

    Raises:
        ParityFailed: it is above the tolerance, or not a number.
    """
    session = _session(path)
    largest = 0.0
    for rows in torch.split(images, 256):
        with torch.inference_mode():
            expected = module(normalise(rows, preprocessing)).numpy()
        (found,) = session.run(["logits"], {"images": rows.numpy()})
        # maximum, unlike max(), does not lose a NaN.
        largest = float(np.maximum(largest, np.abs(found - expected).max()))
    if not largest <= tolerance:
        raise ParityFailed(largest, tolerance)
    return largest


def choose_served_graph(
    directory: Path,
    module: nn.Module,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    images: UInt8[np.ndarray, "rows height width channels"],
    labels: Int64[np.ndarray, " rows"] | None,
) -> GraphChoice:
    """Write the graph that is served beside `model.onnx`, and samples of what both answer (`choose_graph`).

    Samples are some of the images, and none where there are none.

    Args:
        directory: holds `model.onnx`, the net as `export_onnx` writes it.
        module: the net.
        preprocessing: from pixels to what the net sees.
        classes: names in the order of the logits.
        images: of the validation split.
        labels: of the images.
    """
    folded = folded_graph(module, preprocessing, classes) if isinstance(module, Mlp) else None
    choice = choose_graph(directory, folded, images, labels)
    some = np.array(images[:_SAMPLES])
    if not len(some):
        return choice
    answers = {
        name: _session(directory / file).run(["probabilities"], {"images": some})[0]
        for name, file in (("probabilities", choice.file), ("reference", REFERENCE))
    }
    write_tensors(directory / SAMPLES, {"images": some, **answers})
    return choice


def measure_latency(
    path: Path, image: ImageInput, *, batches: Sequence[int] = (1, 32), calls: int = 300
) -> tuple[Latency, ...]:
    """Return how long one call in this process takes on one thread, in milliseconds, for each batch size."""
    session = _session(path)
    return tuple(_latency(session, image, batch, calls) for batch in batches)


def _latency(session: onnxruntime.InferenceSession, image: ImageInput, batch: int, calls: int) -> Latency:
    shape = (batch, image.height, image.width, image.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for _ in range(max(1, calls // 10)):  # the first calls allocate
        session.run(None, {"images": images})
    times_ms = np.fromiter(_times_ms(session, images, calls), dtype=np.float64)
    return Latency(
        batch=batch,
        p50_ms=round(float(np.percentile(times_ms, 50)), 4),
        p99_ms=round(float(np.percentile(times_ms, 99)), 4),
        calls=calls,
        threads=1,
    )


def _times_ms(
    session: onnxruntime.InferenceSession, images: UInt8[np.ndarray, "..."], calls: int
) -> Iterator[float]:
    for _ in range(calls):
        began = time.perf_counter()
        session.run(None, {"images": images})
        yield (time.perf_counter() - began) * 1000


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in session_entries().items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
