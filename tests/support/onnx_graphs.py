"""Small ONNX files made by hand: a linear classifier of images, and what can be wrong with one."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.contracts.images import ImageInput
from tests.support.teachers import INPUT

ONNX_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "float64": TensorProto.DOUBLE,
}


def linear_weights(
    *, size: ImageInput = INPUT, classes: int = 4, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a weight, values x classes, of pixels in the order channels, rows, columns; and a bias."""
    generator = np.random.default_rng(seed)
    weight = generator.normal(0, 1 / np.sqrt(size.values), (size.values, classes))
    return weight.astype(np.float32), generator.normal(0, 0.5, classes).astype(np.float32)


def linear_logits(
    images: NDArray[np.uint8], weight: NDArray[np.float32], bias: NDArray[np.float32], mean: float, std: float
) -> NDArray[np.float64]:
    """Return what the classifier says of uint8 N x H x W x C, in float64."""
    pixels = (images.astype(np.float64) / 255 - mean) / std
    flat = pixels.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.asarray(flat @ weight.astype(np.float64) + bias)


def linear_graph(
    path: Path,
    *,
    size: ImageInput = INPUT,
    classes: int = 4,
    seed: int = 0,
    layout: str = "NCHW",
    datatype: str = "float32",
    rows: int | None = None,
    probabilities: bool = False,
    trailing: int = 0,
    external: str | None = None,
    fixed_channels: bool = True,
    inputs: int = 1,
    outputs: int = 1,
    operator: str | None = None,
    operator_domain: str = "",
) -> Path:
    """Write `size.values` pixels -> logits, or probabilities, and return the path.

    Args:
        path: of the file.
        size: of the images.
        classes: how many.
        seed: of the weights.
        layout: of the input.
        datatype: of input and output; pixels of uint8 are scaled to 0 to 1 in the graph.
        rows: images a call, where they are fixed.
        probabilities: end in softmax.
        trailing: dimensions of length 1 after the classes.
        external: where the weight lies: a path as the file names it.
        fixed_channels: whether the graph says how many channels there are.
        inputs: how many images are taken; their logits are added.
        outputs: how many outputs give the answer.
        operator: put at the end, such as one that nobody knows.
        operator_domain: of that one.
    """
    kind = ONNX_TYPES[datatype]
    inner = TensorProto.FLOAT if datatype == "uint8" else kind
    weight, bias = linear_weights(size=size, classes=classes, seed=seed)
    dtype = helper.tensor_dtype_to_np_dtype(inner)
    weight_tensor = numpy_helper.from_array(weight.astype(dtype), "weight")
    if external is not None:
        weight_tensor = _elsewhere(weight_tensor, external)
    nodes = []
    channels: Any = size.channels if fixed_channels else "channels"
    shape = [channels, size.height, size.width] if layout == "NCHW" else [size.height, size.width, channels]
    taken = [
        helper.make_tensor_value_info(_numbered("pixels", number), kind, [rows or "batch", *shape])
        for number in range(inputs)
    ]
    for number in range(inputs):
        name = _numbered("pixels", number)
        if datatype == "uint8":
            nodes += [
                helper.make_node("Cast", [name], [f"cast-{name}"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"cast-{name}", "scale"], [f"scaled-{name}"]),
            ]
            name = f"scaled-{name}"
        if layout == "NHWC":
            nodes.append(helper.make_node("Transpose", [name], [f"turned-{name}"], perm=[0, 3, 1, 2]))
            name = f"turned-{name}"
        nodes += [
            helper.make_node("Flatten", [name], [f"flat-{number}"]),
            helper.make_node("Gemm", [f"flat-{number}", "weight", "bias"], [f"logits-{number}"]),
        ]
    nodes.append(helper.make_node("Sum", [f"logits-{number}" for number in range(inputs)], ["last-0"]))
    steps: list[tuple[str, str, dict[str, Any]]] = []
    if probabilities:
        steps.append(("Softmax", "", {"axis": -1}))
    if operator is not None:
        steps.append((operator, operator_domain, {}))
    for number, (step, domain, options) in enumerate(steps):
        nodes.append(
            helper.make_node(step, [f"last-{number}"], [f"last-{number + 1}"], domain=domain, **options)
        )
    last = f"last-{len(steps)}"
    initializers = [weight_tensor, numpy_helper.from_array(bias.astype(dtype), "bias")]
    if datatype == "uint8":
        initializers.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "scale"))
    given = []
    for number in range(outputs):
        name = _numbered("scores", number)
        if trailing:
            initializers.append(
                numpy_helper.from_array(np.array([0, -1, *[1] * trailing], np.int64), f"shape-{number}")
            )
            nodes.append(helper.make_node("Reshape", [last, f"shape-{number}"], [name]))
        else:
            nodes.append(helper.make_node("Identity", [last], [name]))
        given.append(helper.make_tensor_value_info(name, inner, [rows or "batch", classes, *[1] * trailing]))
    graph = helper.make_graph(nodes, "linear", taken, given, initializers)
    opsets = [helper.make_opsetid("", 20)]
    if operator_domain:
        opsets.append(helper.make_opsetid(operator_domain, 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def _numbered(name: str, number: int) -> str:
    return name if number == 0 else f"{name}-{number}"


def _elsewhere(tensor: onnx.TensorProto, location: str) -> onnx.TensorProto:
    moved = onnx.TensorProto()
    moved.CopyFrom(tensor)
    moved.ClearField("raw_data")
    moved.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(tensor.raw_data)))):
        entry = moved.external_data.add()
        entry.key, entry.value = key, value
    return moved
