"""Nets of other libraries as ONNX graphs, traced by torch's exporter."""

import warnings

import onnx
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from shared.contracts.images import Preprocessing
from shared.distillation.onnx_graphs import OPSET
from shared.errors import ExtraMissing
from shared.models.foreign import ForeignNet
from shared.models.normalise import scale_and_offset


class _Served(nn.Module):
    """A net with its preprocessing before and the probabilities after."""

    scale: Tensor
    offset: Tensor

    def __init__(self, net: ForeignNet, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.net = net
        scale, offset = scale_and_offset(preprocessing)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch classes"]]:
        """Return logits and probabilities."""
        normalised = images.float() * self.scale + self.offset
        logits = self.net(normalised.permute(0, 3, 1, 2))
        return logits, logits.softmax(-1)


def traced_graph(module: ForeignNet, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Return the net as a model from uint8 images, any batch, to logits and probabilities.

    Raises:
        ExtraMissing: torch's exporter needs `onnxscript`, which comes with the extras.
    """
    image = preprocessing.input
    example = torch.zeros(2, image.height, image.width, image.channels, dtype=torch.uint8)
    with warnings.catch_warnings():
        # The exporter calls parts of torch that torch itself deprecates; nothing that we could call instead.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|onnxscript)\.")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|copyreg|onnxscript)")
        try:
            program = torch.onnx.export(
                _Served(module, preprocessing).eval(),
                (example,),
                input_names=["images"],
                output_names=["logits", "probabilities"],
                opset_version=OPSET,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                dynamo=True,
                verbose=False,
            )
        except ImportError as error:
            raise ExtraMissing("onnxscript", str(error)) from error
    assert program is not None  # it returns None only where it writes a file itself
    return program.model_proto
