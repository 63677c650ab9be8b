"""Other ONNX graphs of a student that may be quicker to serve: folded, in half precision, in 8 bits.

None of them is promised to be quicker or to answer alike: `shared.distillation.graph_choice` measures.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import UInt8
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from shared.contracts.served_graphs import GraphName
from shared.distillation.weights_in_8_bits import in_8_bit_weights

_WEIGHTY = ("Conv", "Gemm", "MatMul")
_IN_8_BITS = (*_WEIGHTY, "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Concat")
"""Products, and what stands between them: to leave 8 bits and come back costs more than it brings."""
_CALIBRATED_AT_ONCE = 16

Made = onnx.ModelProto | str
"""A graph, or in words why there is none."""


def candidates(
    reference: onnx.ModelProto,
    folded: onnx.ModelProto | None,
    calibration: UInt8[np.ndarray, "rows height width channels"],
) -> dict[GraphName, Made]:
    """Return the graphs to choose from beside the reference, each with the same input, outputs and metadata.

    Args:
        reference: float32, from uint8 `images` to `logits` and `probabilities`.
        folded: the same with the normalisation drawn into the first layer, where that can be.
        calibration: images from whose activations the ranges of static 8-bit numbers are taken.
    """
    base = folded if folded is not None else reference
    made: dict[GraphName, Made] = {}
    if folded is not None:
        made["folded"] = folded
    # Not of the folded one: weights by 1/255 are below what half precision holds well.
    made["float16"] = _tried(lambda: _float16(reference))
    made["int8-dynamic"] = _tried(lambda: _dynamic(base))
    made["int8-static"] = _tried(lambda: _static(base, calibration))
    made["int8-weights"] = _tried(lambda: in_8_bit_weights(base, keep=_head(base)))
    for model in made.values():
        if isinstance(model, onnx.ModelProto):
            del model.metadata_props[:]
            model.metadata_props.extend(reference.metadata_props)
    return made


def _tried(make: Callable[[], onnx.ModelProto]) -> Made:
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - the tools have no common error; what they cannot do is told
        return f"could not be made: {type(error).__name__}: {str(error).strip()[:200]}"


def _float16(model: onnx.ModelProto) -> onnx.ModelProto:
    with warnings.catch_warnings():
        # Of weights that half precision cannot hold; what that does to the answers is measured.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"onnxruntime\.transformers\.float16")
        made: onnx.ModelProto = convert_float_to_float16(
            _copy(model),
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Softmax"],
            node_block_list=_head(model),
        )
    _leave_outputs_unrounded(made)
    return made


def _leave_outputs_unrounded(model: onnx.ModelProto) -> None:
    """Take away the casts to half precision and back that the tool puts before every output.

    What gives the outputs works in float32. Logits of three digits would not fit their probabilities.
    """
    before = _by_output(model)
    renamed = {_uncast(output.name, before): output.name for output in model.graph.output}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Cast" and _uncast(node.output[0], before) in renamed:
            continue
        for place, given in enumerate(node.input):
            node.input[place] = renamed.get(_uncast(given, before), given)
        for place, given in enumerate(node.output):
            node.output[place] = renamed.get(given, given)
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _uncast(name: str, by_output: dict[str, onnx.NodeProto]) -> str:
    while name in by_output and by_output[name].op_type == "Cast":
        name = by_output[name].input[0]
    return name


def _dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    return _through_files(
        model,
        lambda prepared, path: quantize_dynamic(
            prepared,
            path,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Gemm", "MatMul"],
            nodes_to_exclude=_head(prepared),
        ),
    )


def _static(
    model: onnx.ModelProto, calibration: UInt8[np.ndarray, "rows height width channels"]
) -> onnx.ModelProto:
    """Return the graph with 8-bit weights (a scale a channel) and activations (a range a tensor).

    The pixels' normalisation and the last layer stay in float32: an error there is an error of the logits.
    """
    return _through_files(
        model,
        lambda prepared, path: quantize_static(
            prepared,
            path,
            _Images(calibration),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(_IN_8_BITS),
            nodes_to_exclude=[*_before_the_net(prepared), *_head(prepared)],
        ),
    )


class _Images(CalibrationDataReader):  # type: ignore[misc]  # it comes without types
    def __init__(self, images: UInt8[np.ndarray, "rows height width channels"]) -> None:
        starts = range(0, len(images), _CALIBRATED_AT_ONCE)
        self._batches = iter([np.array(images[start : start + _CALIBRATED_AT_ONCE]) for start in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next images, None where there are no more: what the tool asks for."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _through_files(
    model: onnx.ModelProto, quantise: Callable[[onnx.ModelProto, Path], None]
) -> onnx.ModelProto:
    """Return the graph pre-processed (shapes inferred, constants folded) and quantised.

    The tools speak in files. Without the pre-processing, 8 bits made a convolutional net slower, not quicker.
    """
    with tempfile.TemporaryDirectory(prefix="imago-") as folder:
        before, prepared, after = (Path(folder) / f"{name}.onnx" for name in ("before", "prepared", "after"))
        onnx.save(model, before)
        # Symbolic shapes are for graphs with more than one free axis; ours has the batch alone.
        quant_pre_process(before, prepared, skip_symbolic_shape=True)
        named = onnx.load(prepared)
        for number, node in enumerate(named.graph.node):
            node.name = node.name or f"{node.op_type.lower()}_{number}"
        quantise(named, after)
        return onnx.load(after)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _head(model: onnx.ModelProto) -> list[str]:
    """Return the names of the layer that the logits come from, and of what follows it, such as its bias."""
    by_output = _by_output(model)
    node = by_output["logits"]
    names = [node.name]
    while node.op_type not in _WEIGHTY:
        inner = [by_output[name] for name in node.input if name in by_output]
        if not inner:
            break
        node = inner[0]
        names.append(node.name)
    return names


def _by_output(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def _before_the_net(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes between the pixels and the first layers with weights."""
    outside = {"images"} | {tensor.name for tensor in model.graph.initializer}
    names = []
    for node in model.graph.node:  # in the order in which they run
        if node.op_type not in _WEIGHTY and outside.issuperset(node.input):
            names.append(node.name)
            outside.update(node.output)
    return names
