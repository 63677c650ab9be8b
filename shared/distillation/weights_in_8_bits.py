"""The weights of fully connected layers in blocks of 8-bit numbers, for ONNX Runtime's `MatMulNBits`.

Each block of 32 weights of an output has a scale of its own, and each block of an image's activations gets
one when it comes. So no calibration is needed, an answer does not depend on the batch, and a call with one
image reads a quarter of the memory.
"""

from collections.abc import Collection

import numpy as np
import onnx
from jaxtyping import Float32, UInt8
from onnx import helper, numpy_helper

_BLOCK = 32
_BITS = 8
_ZERO = 128
"""What stands for 0, unless the operator is told otherwise."""
_MOST = 127
_PRODUCTS_OF_INT8 = 4
"""The operator's `accuracy_level` at which activations, too, are taken in 8 bits."""
_DOMAIN = "com.microsoft"


def in_8_bit_weights(model: onnx.ModelProto, *, keep: Collection[str]) -> onnx.ModelProto:
    """Return the graph with the weights of its `Gemm` nodes in 8 bits.

    Args:
        model: its `Gemm` nodes have constant weights, outputs x inputs (`transB`), as the export writes them.
        keep: names of nodes to leave as they are.

    Raises:
        ValueError: there is no such layer.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        if node.op_type == "Gemm" and node.name not in keep and _is_plain(node) and node.input[1] in tensors:
            weights = np.asarray(numpy_helper.to_array(tensors[node.input[1]]), dtype=np.float32)
            blocks, scales = blocked(weights)
            names = [f"{node.input[1]}_{part}" for part in ("blocks", "scales")]
            made.graph.initializer.extend(
                numpy_helper.from_array(array, name)
                for array, name in zip((blocks, scales), names, strict=True)
            )
            nodes += _layer(node, names, weights.shape)
        else:
            nodes.append(node)
    if all(node.op_type != "MatMulNBits" for node in nodes):
        raise ValueError("no fully connected layer but the last")
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in made.graph.initializer if tensor.name in used]
    for field, values in ((made.graph.node, nodes), (made.graph.initializer, kept)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
    if all(entry.domain != _DOMAIN for entry in made.opset_import):
        made.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return made


def blocked(
    weights: Float32[np.ndarray, "outputs inputs"],
) -> tuple[UInt8[np.ndarray, "outputs blocks 32"], Float32[np.ndarray, " scales"]]:
    """Return each weight as its difference from 128, in steps of its block's scale, and the scales in order.

    The last block of a row is filled with zeros.
    """
    outputs, inputs = weights.shape
    count = -(-inputs // _BLOCK)
    padded = np.zeros((outputs, count * _BLOCK), dtype=np.float32)
    padded[:, :inputs] = weights
    blocks = padded.reshape(outputs, count, _BLOCK)
    largest = np.abs(blocks).max(axis=2)
    scales = np.where(largest > 0, largest / _MOST, 1).astype(np.float32)
    steps = np.rint(blocks / scales[:, :, None]) + _ZERO
    return steps.astype(np.uint8), scales.reshape(-1)


def _is_plain(node: onnx.NodeProto) -> bool:
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    transposed = given.get("transB", 0) == 1 and given.get("transA", 0) == 0
    scaled = given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0
    return bool(transposed and not scaled)


def _layer(node: onnx.NodeProto, names: list[str], shape: tuple[int, ...]) -> list[onnx.NodeProto]:
    outputs, inputs = shape
    (result,) = node.output
    bias = node.input[2] if len(node.input) > 2 else ""
    product = f"{result}_product" if bias else result
    nodes = [
        helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            [product],
            name=node.name,
            domain=_DOMAIN,
            K=inputs,
            N=outputs,
            bits=_BITS,
            block_size=_BLOCK,
            accuracy_level=_PRODUCTS_OF_INT8,
        )
    ]
    if bias:
        nodes.append(helper.make_node("Add", [product, bias], [result], name=f"{node.name}_bias"))
    return nodes
