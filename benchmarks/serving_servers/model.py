"""The student as every server here runs it: OpenCV decodes, one thread of ONNX Runtime answers.

What is compared is what a server adds, so the rest is the same, and as quick as is to be had. It needs numpy,
onnxruntime and opencv-python-headless alone, because each server has an environment of its own.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import onnxruntime


class Model:
    """Encoded images in, probabilities out."""

    def __init__(self, path: str, height: int, width: int, channels: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._size = (height, width, channels)
        self._mode = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB

    def decode(self, data: Any) -> Any:
        """Return the pixels of an encoded image, uint8 height x width x channels."""
        return cv2.imdecode(np.frombuffer(data, np.uint8), self._mode).reshape(self._size)

    def probabilities(self, images: Any) -> Any:
        """Return float32 rows x classes of uint8 rows x height x width x channels."""
        return self._session.run(["probabilities"], {"images": images})[0]

    def of_encoded(self, images: Sequence[Any]) -> Any:
        """Return the probabilities of encoded images, as one call."""
        return self.probabilities(np.stack([self.decode(image) for image in images]))


def words(setting: str) -> tuple[int, int, float]:
    """Return workers, largest batch and wait in ms of a setting such as `2x32@1` or `2x32`."""
    workers, _, rest = setting.partition("x")
    batch, _, wait_ms = rest.partition("@")
    return int(workers), int(batch), float(wait_ms or 0)
