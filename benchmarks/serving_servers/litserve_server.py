"""LitServe as its documentation has it for images. The setting is workers, largest batch and wait: `2x32@2`.

python litserve_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import sys
from typing import Any

import litserve
import numpy as np
from model import Model, words

PORT, MODEL, *SIZE = sys.argv[1:6]
WORKERS, BATCH, WAIT_MS = words(sys.argv[6])


class Student(litserve.LitAPI):
    """Decodes, stacks, runs."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.model = Model(MODEL, *map(int, SIZE))

    def decode_request(self, request):  # a type would make it a parameter of the query
        """Return the pixels of one request."""
        return self.model.decode(request["request"].file.read())

    def predict(self, images: Any) -> Any:
        """Return probabilities."""
        if BATCH > 1:
            return self.model.probabilities(np.asarray(images))
        return self.model.probabilities(images[None])[0]

    def encode_response(self, output: Any) -> dict[str, list[float]]:
        """Return what becomes JSON."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Student(max_batch_size=BATCH, batch_timeout=WAIT_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(port=int(PORT), generate_client_file=False, log_level="warning")
