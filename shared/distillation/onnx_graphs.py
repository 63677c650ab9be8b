"""Our own families as ONNX graphs, written node by node from a net's weights.

The graphs are some dozens of nodes long, ready in milliseconds, and the same bytes for the same net.
BatchNorm is folded into the convolution before it.
"""

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from jaxtyping import Float
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from shared.contracts.images import Preprocessing
from shared.models.cnn import Cnn
from shared.models.mlp import Mlp
from shared.models.normalise import scale_and_offset
from shared.models.resnet import Block, ResNet

OPSET = 21
_IR_VERSION = 10


class _Graph:
    """Nodes and weights in the making; each method adds nodes and returns the name of what comes out."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Tensor] = {}

    def add(self, operator: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        out = out or f"{operator.lower()}_{len(self.nodes)}"
        # Named as what comes out of it: profiles and quantisation speak of nodes by name.
        self.nodes.append(helper.make_node(operator, list(inputs), [out], name=out, **attributes))
        return out

    def weight(self, name: str, tensor: Tensor) -> str:
        self.weights[name] = tensor
        return name

    def linear(self, before: str, layer: nn.Linear, name: str, out: str | None = None) -> str:
        weight = self.weight(f"{name}.weight", layer.weight)
        return self.add("Gemm", before, weight, self.weight(f"{name}.bias", layer.bias), out=out, transB=1)

    def convolution(
        self, before: str, layer: nn.Conv2d, name: str, norm: nn.BatchNorm2d | None = None
    ) -> str:
        weight, bias = layer.weight, layer.bias
        if norm is not None:
            weight, bias = folded(layer, norm)
        inputs = [before, self.weight(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self.weight(f"{name}.bias", bias))
        height, width = (int(pad) for pad in layer.padding)
        return self.add(
            "Conv",
            *inputs,
            kernel_shape=list(layer.kernel_size),
            strides=list(layer.stride),
            pads=[height, width, height, width],
        )


def served_graph(
    module: Mlp | Cnn | ResNet, preprocessing: Preprocessing, classes: Sequence[str]
) -> onnx.ModelProto:
    """Return the net as a model from uint8 images to logits and probabilities."""
    graph = _Graph()
    scale, offset = scale_and_offset(preprocessing)
    pixels = graph.add("Cast", "images", to=TensorProto.FLOAT)
    scaled = graph.add("Mul", pixels, graph.weight("scale", scale))
    normalised = graph.add("Add", scaled, graph.weight("offset", offset))
    planes = graph.add("Transpose", normalised, perm=[0, 3, 1, 2])
    if isinstance(module, Mlp):
        # torch flattens channels first.
        _mlp(graph, graph.add("Flatten", planes, axis=1), list(module.layers))
    elif isinstance(module, Cnn):
        _cnn(graph, module, planes)
    else:
        _resnet(graph, module, planes)
    return _model(graph, preprocessing, classes)


def folded_graph(module: Mlp, preprocessing: Preprocessing, classes: Sequence[str]) -> onnx.ModelProto:
    """Return the same, with what is done to the pixels drawn into the first layer: it takes them as they are.

    Of perceptrons only: a convolution pads with zeros, which are no pixels of mean colour then.
    """
    graph = _Graph()
    pixels = graph.add("Cast", "images", to=TensorProto.FLOAT)
    first, *others = module.layers
    assert isinstance(first, nn.Linear)
    layers = [folded_pixels(first, preprocessing), *others]
    _mlp(graph, graph.add("Flatten", pixels, axis=1), layers)
    return _model(graph, preprocessing, classes)


def _model(graph: _Graph, preprocessing: Preprocessing, classes: Sequence[str]) -> onnx.ModelProto:
    graph.add("Softmax", "logits", out="probabilities", axis=-1)
    image = preprocessing.input
    shape: list[str | int | None] = ["batch", image.height, image.width, image.channels]
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "student",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", len(classes)])
                for name in ("logits", "probabilities")
            ],
            [
                numpy_helper.from_array(tensor.detach().cpu().contiguous().numpy(), name)
                for name, tensor in graph.weights.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="imago",
    )


def folded(
    layer: nn.Conv2d, norm: nn.BatchNorm2d
) -> tuple[Float[Tensor, "outputs inputs _ _"], Float[Tensor, " outputs"]]:
    """Return weight and bias of one convolution that does what the two layers do when they evaluate.

    BatchNorm gives (y - mean) · s + bias with s = weight / sqrt(variance + epsilon), and s may be drawn into
    what made y. In float64, so that folding costs no digits.
    """
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # our nets' layers keep them
    assert variance is not None
    scale = norm.weight.detach().double() / torch.sqrt(variance.double() + norm.eps)
    weight = layer.weight.detach().double() * scale.view(-1, 1, 1, 1)
    bias = norm.bias.detach().double() - mean.double() * scale
    return weight.float(), bias.float()


def folded_pixels(layer: nn.Linear, preprocessing: Preprocessing) -> nn.Linear:
    """Return a layer that makes of raw pixels, channels last, what this one makes of normalised planes.

    W (pixels · scale + offset) + b is (W · scale) pixels + (W offset + b). In float64, as `folded`.
    """
    image = preprocessing.input
    scale, offset = (value.double().expand(image.channels) for value in scale_and_offset(preprocessing))
    weight = layer.weight.detach().double()
    weight = weight.reshape(-1, image.channels, image.height, image.width).permute(0, 2, 3, 1)
    made = nn.Linear(layer.in_features, layer.out_features)
    with torch.no_grad():
        made.weight.copy_((weight * scale).flatten(1))
        made.bias.copy_(layer.bias.double() + (weight * offset).sum((1, 2, 3)))
    return made


def _mlp(graph: _Graph, hidden: str, layers: Sequence[nn.Module]) -> None:
    last = len(layers) - 1
    for index, layer in enumerate(layers):
        assert isinstance(layer, nn.Linear)
        name = f"layers.{index}"
        if index == last:
            graph.linear(hidden, layer, name, out="logits")
        else:
            hidden = graph.add("Relu", graph.linear(hidden, layer, name))


def _cnn(graph: _Graph, module: Cnn, planes: str) -> None:
    maps = planes
    for index, layer in enumerate(module.blocks):
        assert isinstance(layer, nn.Conv2d)
        maps = graph.add("Relu", graph.convolution(maps, layer, f"blocks.{index}"))
        maps = graph.add("MaxPool", maps, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    flat = graph.add("Flatten", maps, axis=1)
    hidden = graph.add("Relu", graph.linear(flat, module.hidden, "hidden"))
    graph.linear(hidden, module.head, "head", out="logits")


def _resnet(graph: _Graph, module: ResNet, planes: str) -> None:
    maps = graph.add("Relu", graph.convolution(planes, module.conv, "conv", module.norm))
    for index, block in enumerate(module.blocks):
        assert isinstance(block, Block)
        maps = _block(graph, block, maps, f"blocks.{index}")
    pooled = graph.add("Flatten", graph.add("GlobalAveragePool", maps), axis=1)
    graph.linear(pooled, module.head, "head", out="logits")


def _block(graph: _Graph, block: Block, maps: str, name: str) -> str:
    inner = graph.add("Relu", graph.convolution(maps, block.conv1, f"{name}.conv1", block.norm1))
    inner = graph.convolution(inner, block.conv2, f"{name}.conv2", block.norm2)
    if block.shortcut is not None:
        layer, norm = block.shortcut["conv"], block.shortcut["norm"]
        assert isinstance(layer, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        maps = graph.convolution(maps, layer, f"{name}.shortcut", norm)
    return graph.add("Relu", graph.add("Add", inner, maps))
