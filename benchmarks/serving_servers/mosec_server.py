"""mosec, tuned: OpenCV decodes, orjson writes. The setting is workers, largest batch and wait: `2x32@1`.

python mosec_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import os
import sys
from typing import Any

import cv2
import numpy as np
import onnxruntime
import orjson
from mosec import Server, Worker

# Its processes are spawned and read this file anew; its own command line is what mosec reads itself.
if __name__ == "__main__":
    os.environ["BENCH_ARGUMENTS"] = " ".join(sys.argv[1:])
    sys.argv[1:] = ["--port", sys.argv[1], "--log-level", "warning"]
_, MODEL, *_SIZE, _SETTING = os.environ["BENCH_ARGUMENTS"].split(" ")
HEIGHT, WIDTH, CHANNELS = map(int, _SIZE)
WORKERS, _, _REST = _SETTING.partition("x")
BATCH, _, WAIT_MS = _REST.partition("@")


class Student(Worker):
    """Decodes a batch, runs it, writes it."""

    def __init__(self) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(MODEL, options)

    def deserialize(self, data: bytes) -> Any:
        """Return the pixels of one request."""
        mode = cv2.IMREAD_GRAYSCALE if CHANNELS == 1 else cv2.IMREAD_COLOR_RGB
        return cv2.imdecode(np.frombuffer(data, np.uint8), mode)

    def serialize(self, data: Any) -> bytes:
        """Return the JSON of one answer."""
        return orjson.dumps({"probabilities": data}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: Any) -> Any:
        """Return the probabilities of a batch, or of one image where batches are off."""
        images = np.stack(data) if isinstance(data, list) else data
        images = images.reshape(-1, HEIGHT, WIDTH, CHANNELS)
        probabilities = self.session.run(["probabilities"], {"images": images})[0]
        return list(probabilities) if isinstance(data, list) else probabilities[0]


if __name__ == "__main__":
    server = Server()
    batch = int(BATCH)
    more = {"max_batch_size": batch, "max_wait_time": int(WAIT_MS)} if batch > 1 else {}
    server.append_worker(Student, num=int(WORKERS), **more)
    server.run()
