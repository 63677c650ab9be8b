"""One ONNX graph on ONNX Runtime: uint8 images in, logits and probabilities at T = 1 out."""

import onnxruntime
from jaxtyping import Float32, UInt8
from numpy import ndarray

from shared.errors import StudentUnusable
from shared.processor import session_entries

Images = UInt8[ndarray, "rows height width channels"]


class Graph:
    """A loaded graph. Its methods may be called from several threads at once.

    Args:
        version: of the student that it belongs to.
        name: of its file.
        model: the file's content.
        threads: of ONNX Runtime for one call.

    Raises:
        StudentUnusable: it is no graph that ONNX Runtime can load.
    """

    def __init__(self, version: str, name: str, model: bytes, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # A spinning thread takes the core that the next request needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 3
        for key, value in session_entries().items():
            options.add_session_config_entry(key, value)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no common error: whatever it is, it does not load
            raise StudentUnusable(version, f"its {name} does not load") from error

    def run(
        self, images: Images
    ) -> tuple[Float32[ndarray, "rows answers"], Float32[ndarray, "rows answers"]]:
        """Return logits and probabilities at T = 1."""
        logits, probabilities = self._session.run(["logits", "probabilities"], {"images": images})
        return logits, probabilities

    def logits(self, images: Images) -> Float32[ndarray, "rows answers"]:
        """Return the logits alone."""
        answer: Float32[ndarray, "rows answers"] = self._session.run(["logits"], {"images": images})[0]
        return answer

    def probabilities(self, images: Images) -> Float32[ndarray, "rows answers"]:
        """Return the probabilities alone."""
        answer: Float32[ndarray, "rows answers"] = self._session.run(["probabilities"], {"images": images})[0]
        return answer
