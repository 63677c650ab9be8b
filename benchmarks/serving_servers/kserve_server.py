"""KServe's server for Python models, without its cluster. The setting is workers and largest batch: `2x1`.

The image comes as the base64 of a BYTES tensor of the Open Inference Protocol; it takes binary data of this
type for text.

python kserve_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import base64
import logging
import os
import sys
from typing import Any

from model import Model, words

# Its processes are spawned and read this file anew; and it reads the command line when it is imported.
# Without these options it writes lines of log for each request.
if __name__ == "__main__":
    os.environ["BENCH_ARGUMENTS"] = " ".join(sys.argv[1:])
    sys.argv[1:] = [
        "--configure_logging",
        "false",
        "--enable_latency_logging",
        "false",
        "--enable_grpc",
        "false",
    ]
PORT, MODEL, *SIZE, _SETTING = os.environ["BENCH_ARGUMENTS"].split(" ")
WORKERS, _, _ = words(_SETTING)
logging.disable(logging.INFO)  # its processes write three lines for each request, whatever they are told

import kserve  # noqa: E402 - see above
from kserve import InferOutput, InferRequest, InferResponse, ModelServer  # noqa: E402


class Student(kserve.Model):
    """Decodes and runs."""

    def __init__(self) -> None:
        super().__init__("student")
        self.model: Model | None = None
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> Any:
        """Return the probabilities."""
        if self.model is None:  # not before: it is sent to worker processes
            self.model = Model(MODEL, *map(int, SIZE))
        found = self.model.of_encoded([base64.b64decode(one) for one in payload.inputs[0].data])
        output = InferOutput("probabilities", list(found.shape), "FP32", data=found.ravel().tolist())
        return InferResponse(payload.id or "1", "student", [output])


if __name__ == "__main__":
    ModelServer(http_port=int(PORT), workers=WORKERS, enable_grpc=False).start([Student()])
