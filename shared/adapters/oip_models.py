"""How a model on a server is asked, as server and model describe themselves."""

from typing import Final

import numpy as np

from shared.adapters.oip import OipServer
from shared.adapters.oip_bodies import BINARY_EXTENSION, NUMPY_NAMES
from shared.contracts.images import ImageInput
from shared.contracts.oip import ModelMetadata, TensorMetadata
from shared.contracts.teachers import Answers, Layout, RemoteModel
from shared.errors import ModelUnfit, TeacherAnswerInvalid, TeacherUnavailable
from shared.models.signature import ImageTensor, TensorFacts, answering_tensor, image_tensor

_CONFIGURATION_EXTENSION: Final = "model_configuration"
_CALL_BYTES: Final = 4 * 2**20
"""A request of about this size is on its way while the one before is computed."""
_MOST_ROWS: Final = 64
_NUMBER_BYTES: Final = {"float32": 4, "float16": 2, "uint8": 1}
_NUMBER_LETTERS: Final = {"float32": 12, "float16": 10, "uint8": 4}
"""Of a number in JSON, its comma included."""


def find_model(
    server: OipServer,
    *,
    url: str,
    model: str,
    version: str | None = None,
    image: ImageInput | None = None,
    output: str | None = None,
    layout: Layout | None = None,
    answers: Answers = "logits",
) -> tuple[RemoteModel, ImageTensor, int | None]:
    """Return how a model is asked, what it sees, and how many classes it answers (None where that is open).

    Args:
        server: that has it.
        url: of the server.
        model: its name there.
        version: of it; None takes the one that the server prefers.
        image: that it sees, where its own description leaves that open.
        output: that answers; None where there is one only.
        layout: of its input; None where the shape is to tell.
        answers: what its owner says that it gives.

    Raises:
        TeacherUnavailable: server or model do not answer now.
        TeacherAnswerInvalid: there is no such model, or no such protocol.
        ModelUnfit: its tensors are not one batch of images in and a number a class out.
    """
    described, found = server.metadata(), server.model(model, version)
    if not server.ready(model, version):
        raise TeacherUnavailable(f"{server.whose} says that model {model!r} is not ready")
    takes = image_tensor(_facts(found, "inputs"), layout)
    gives = answering_tensor(_facts(found, "outputs"), output)
    if takes.rows not in (None, 1):
        raise ModelUnfit(
            f"model {model!r} takes exactly {takes.rows} images a call",
            remedy="Let the first dimension of its input vary, or be 1.",
        )
    remote = RemoteModel(
        url=url,
        model=model,
        version=version,
        input=takes.name,
        output=gives.name,
        layout=takes.layout,
        datatype=takes.datatype,
        rows=1,
        answers=answers,
    )
    sees = takes.image or image
    binary = BINARY_EXTENSION in described.extensions or _takes_bytes(server, remote, takes, sees)
    rows = takes.rows or _rows(takes, sees, binary=binary)
    if _CONFIGURATION_EXTENSION in described.extensions:
        most = server.configuration(model, version).max_batch_size
        rows = min(rows, most) if most > 0 else rows
    return remote.model_copy(update={"binary": binary, "rows": rows}), takes, gives.shape[1]


def _takes_bytes(server: OipServer, remote: RemoteModel, takes: ImageTensor, sees: ImageInput | None) -> bool:
    """Try whether a server takes tensors as bytes though it does not say so, as KServe 0.21 does."""
    if sees is None:
        return False
    image = (sees.height, sees.width, takes.channels)
    shape = image if remote.layout == "NHWC" else (image[2], *image[:2])
    try:
        server.infer(remote.model_copy(update={"binary": True}), np.zeros((1, *shape), remote.datatype))
    except (TeacherAnswerInvalid, TeacherUnavailable):
        return False
    return True


def _rows(takes: ImageTensor, image: ImageInput | None, *, binary: bool) -> int:
    """Return how many images make a request of a good size."""
    number = (_NUMBER_BYTES if binary else _NUMBER_LETTERS)[takes.datatype]
    values = image.height * image.width * takes.channels if image is not None else _CALL_BYTES // 32
    return max(1, min(_MOST_ROWS, _CALL_BYTES // (number * values)))


def _facts(found: ModelMetadata, which: str) -> tuple[TensorFacts, ...]:
    tensors: tuple[TensorMetadata, ...] | None = found.inputs if which == "inputs" else found.outputs
    if not tensors:
        raise ModelUnfit(
            f"the server does not say which {which} model {found.name!r} has",
            remedy=f"State its `{which}` in the model's configuration there (MLServer: model-settings.json).",
        )
    return tuple(
        TensorFacts(
            tensor.name,
            NUMPY_NAMES.get(tensor.datatype, tensor.datatype),
            tuple(length if length > 0 else None for length in tensor.shape),
        )
        for tensor in tensors
        if not (tensor.parameters or {}).get("optional")
    )
