"""What an ONNX file says of itself, asked of ONNX Runtime: tensors in and out, operators. No torch here."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnxruntime

from shared.contracts.teachers import Answers, Layout, OnnxModel
from shared.errors import InvalidModelFiles
from shared.models.onnx_wire import read_contents
from shared.models.signature import ImageTensor, TensorFacts, answering_tensor, image_tensor

FATAL_ONLY: Final = 4
"""ONNX Runtime's log level: what goes wrong is raised, and told once."""

_NUMPY_NAMES: Final = {"float": "float32", "double": "float64"}
"""Where ONNX Runtime's words differ from numpy's."""

_EMBED: Final = (
    "Write it as one file: `onnx.save(onnx.load('model.onnx'), 'whole.onnx')`; a graph may have 2 GB."
)


@dataclass(frozen=True)
class OnnxFacts:
    """What an ONNX file takes, gives and is made of."""

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    opsets: dict[str, int]
    """Versions of the operators by domain."""
    operators: tuple[str, ...]
    """By name, each once."""


def inspect_onnx(path: Path) -> OnnxFacts:
    """Return what an ONNX file says of itself; ONNX Runtime has built its graph then.

    A graph whose tensors lie in other files is refused before anything that it names is opened: a teacher is
    one file under one digest.

    Raises:
        InvalidModelFiles: it is no ONNX file, its tensors lie elsewhere, or ONNX Runtime cannot run it, such
            as for an operator that it does not know.
    """
    contents = read_contents(path)
    if contents.external:
        raise InvalidModelFiles("its tensors lie in other files", file=path.name, remedy=_EMBED)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = open_session(path, options, ["CPUExecutionProvider"])
    return OnnxFacts(
        inputs=tuple(_facts(tensor) for tensor in session.get_inputs()),
        outputs=tuple(_facts(tensor) for tensor in session.get_outputs()),
        opsets=contents.opsets,
        operators=tuple(sorted(contents.operators)),
    )


def open_session(
    path: Path, options: onnxruntime.SessionOptions, providers: list[Any]
) -> onnxruntime.InferenceSession:
    """Return a session on a graph whose tensors lie in its own file.

    Raises:
        InvalidModelFiles: ONNX Runtime cannot run it; the words are its own.
    """
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime has no common error
        raise InvalidModelFiles(
            f"ONNX Runtime {onnxruntime.__version__} does not run it: {_words(error, path)}",
            file=path.name,
            remedy="Export the model with operators of ONNX alone, of a version that this runtime knows.",
        ) from error


def onnx_model_of(
    facts: OnnxFacts, *, output: str | None = None, layout: Layout | None = None, answers: Answers = "logits"
) -> tuple[OnnxModel, ImageTensor, int | None]:
    """Return how a graph is asked, what it sees, and how many classes it answers (None where it is open).

    Args:
        facts: of the graph.
        output: that answers; None where there is one only.
        layout: of its input; None where the shape is to tell.
        answers: what its owner says that it gives.

    Raises:
        ModelUnfit: its tensors are not one batch of images in and a number a class out.
    """
    takes = image_tensor(facts.inputs, layout)
    gives = answering_tensor(facts.outputs, output)
    model = OnnxModel(
        input=takes.name,
        output=gives.name,
        layout=takes.layout,
        datatype=takes.datatype,
        rows=takes.rows,
        answers=answers,
    )
    return model, takes, gives.shape[1]


def _facts(tensor: Any) -> TensorFacts:
    found = re.fullmatch(r"tensor\((\w+)\)", tensor.type)
    datatype = found[1] if found else tensor.type
    # A length that may vary has a name, or none.
    shape = tuple(length if isinstance(length, int) and length > 0 else None for length in tensor.shape)
    return TensorFacts(tensor.name, _NUMPY_NAMES.get(datatype, datatype), shape)


def _words(error: Exception, path: Path) -> str:
    """Return what ONNX Runtime says, on one line, without its banner and without where the file lies."""
    words = " ".join(str(error).replace(str(path), path.name).split())
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", words)[:600]
