"""A student's bundle, ready to answer: ONNX Runtime on the CPU, checked and warmed before it is used.

The graph takes uint8 pixels (`images`, N x H x W x C) and gives `logits` and `probabilities` (N x classes) at
T = 1, so that nothing about the normalisation is left to whoever serves it.
"""

import statistics
import time
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.artefacts.files import sha256_bytes
from shared.contracts.students import StudentCard
from shared.errors import InputMismatch, StudentUnusable

CARD = "card.json"
MODEL = "model.onnx"

_WARM_UP_CALLS = 20
_TOLERANCE = 1e-4
"""Of probabilities: softmax in float32, and sums in another order for another batch."""


class StudentSession:
    """One student in memory. `run` and `probabilities` may be called from several threads at once."""

    def __init__(self, card: StudentCard, session: onnxruntime.InferenceSession) -> None:
        self.card = card
        self.version = card.version
        self.classes = card.classes
        self.input = card.preprocessing.input
        self.seconds_per_image = 0.0
        """Median time of a call with one image, in seconds, measured when the student was loaded."""
        self._session = session

    @classmethod
    def load(cls, directory: Path, *, threads: int = 1) -> Self:
        """Load, check and warm the bundle in `directory`.

        Args:
            directory: holds `card.json` and `model.onnx`.
            threads: of ONNX Runtime for one call. One is right where requests come side by side.

        Raises:
            StudentUnusable: a file is missing or damaged, the graph does not load, or it does not answer as
                the card says.
        """
        try:
            card = StudentCard.model_validate_json((directory / CARD).read_bytes())
        except (OSError, ValidationError) as error:
            raise StudentUnusable(directory.name, f"its {CARD} cannot be read") from error
        try:
            model = (directory / MODEL).read_bytes()
        except OSError as error:
            raise StudentUnusable(card.version, f"its {MODEL} cannot be read") from error
        listed = card.files.get(MODEL)
        # What was checked is what is loaded: the bytes, not the path, go to ONNX Runtime.
        if listed is None or sha256_bytes(model) != listed.sha256:
            raise StudentUnusable(card.version, f"its {MODEL} does not have the digest on its card")
        student = cls(card, _session(card.version, model, threads))
        student._check()
        student._warm_up()
        return student

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities at T = 1, both float32 N x classes, of uint8 N x H x W x C.

        Raises:
            InputMismatch: the images have another type, size or number of channels.
        """
        self._check_input(images)
        logits, probabilities = self._session.run(["logits", "probabilities"], {"images": images})
        return logits, probabilities

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities alone, as `run` does."""
        self._check_input(images)
        answer: NDArray[np.float32] = self._session.run(["probabilities"], {"images": images})[0]
        return answer

    def _check_input(self, images: NDArray[np.uint8]) -> None:
        size = (self.input.height, self.input.width, self.input.channels)
        if images.dtype != np.uint8 or images.shape[1:] != size:
            raise InputMismatch(
                f"student {self.version} takes uint8 N x {' x '.join(map(str, size))}, "
                f"got {images.dtype} {' x '.join(map(str, images.shape))}"
            )

    def _check(self) -> None:
        """Compare what the graph answers with what the card says, on noise."""
        shape = (3, self.input.height, self.input.width, self.input.channels)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        try:
            logits, together = self.run(images)
            alone = np.concatenate([self.probabilities(image[None]) for image in images])
        except Exception as error:  # ONNX Runtime has no common error: whatever it is, the graph does not run
            raise StudentUnusable(self.version, "its graph does not run") from error
        expected = (len(images), len(self.classes))
        if logits.shape != expected or together.shape != expected:
            raise StudentUnusable(
                self.version, f"its graph answers {logits.shape[1:]} for {len(self.classes)} classes"
            )
        if not np.isfinite(logits).all():
            raise StudentUnusable(self.version, "its logits are not finite")
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        if not np.allclose(together, raised / raised.sum(axis=1, keepdims=True), atol=_TOLERANCE):
            raise StudentUnusable(self.version, "its probabilities are not softmax(logits) at T = 1")
        if not np.allclose(together, alone, atol=_TOLERANCE):
            raise StudentUnusable(self.version, "its answer to an image depends on the batch")

    def _warm_up(self) -> None:
        image = np.zeros((1, self.input.height, self.input.width, self.input.channels), dtype=np.uint8)
        times = []
        for _ in range(_WARM_UP_CALLS):
            began = time.perf_counter()
            self.probabilities(image)
            times.append(time.perf_counter() - began)
        self.seconds_per_image = statistics.median(times)


def _session(version: str, model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A spinning thread takes the core that the next request needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common error: see above
        raise StudentUnusable(version, f"its {MODEL} does not load") from error
