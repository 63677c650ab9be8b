"""LitServe as its documentation has it for images. The setting is workers, largest batch and wait: `2x32@2`.

python litserve_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import io
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from PIL import Image

PORT, MODEL = int(sys.argv[1]), sys.argv[2]
HEIGHT, WIDTH, CHANNELS = map(int, sys.argv[3:6])
WORKERS, _, _REST = sys.argv[6].partition("x")
BATCH, _, WAIT_MS = _REST.partition("@")


class Student(litserve.LitAPI):
    """Decodes, stacks, runs."""

    def setup(self, device: str) -> None:
        """Load the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(MODEL, options)

    def decode_request(self, request):  # a type would make it a parameter of the query
        """Return the pixels of one request."""
        image = Image.open(io.BytesIO(request["request"].file.read()))
        converted = image.convert("L" if CHANNELS == 1 else "RGB")
        return np.asarray(converted, dtype=np.uint8).reshape(HEIGHT, WIDTH, CHANNELS)

    def predict(self, images: Any) -> Any:
        """Return probabilities."""
        rows = np.asarray(images).reshape(-1, HEIGHT, WIDTH, CHANNELS)
        found = self.session.run(["probabilities"], {"images": rows})[0]
        return found if int(BATCH) > 1 else found[0]

    def encode_response(self, output: Any) -> dict[str, list[float]]:
        """Return what becomes JSON."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Student(max_batch_size=int(BATCH), batch_timeout=float(WAIT_MS) / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(WORKERS))
    server.run(port=PORT, generate_client_file=False, log_level="warning")
