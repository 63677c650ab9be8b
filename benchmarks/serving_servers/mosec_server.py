"""mosec, tuned: OpenCV decodes, orjson writes. The setting is workers, largest batch and wait: `2x32@1`.

python mosec_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import os
import sys
from typing import Any

import numpy as np
import orjson
from model import Model, words
from mosec import Server, Worker

# Its processes are spawned and read this file anew; its own command line is what mosec reads itself.
if __name__ == "__main__":
    os.environ["BENCH_ARGUMENTS"] = " ".join(sys.argv[1:])
    sys.argv[1:] = ["--port", sys.argv[1], "--log-level", "warning"]
_, MODEL, *_SIZE, _SETTING = os.environ["BENCH_ARGUMENTS"].split(" ")
WORKERS, BATCH, WAIT_MS = words(_SETTING)


class Student(Worker):
    """Decodes a batch, runs it, writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(MODEL, *map(int, _SIZE))

    def deserialize(self, data: bytes) -> Any:
        """Return the pixels of one request."""
        return self.model.decode(data)

    def serialize(self, data: Any) -> bytes:
        """Return the JSON of one answer."""
        return orjson.dumps({"probabilities": data}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: Any) -> Any:
        """Return the probabilities of a batch, or of one image where batches are off."""
        if isinstance(data, list):
            return list(self.model.probabilities(np.stack(data)))
        return self.model.probabilities(data[None])[0]


if __name__ == "__main__":
    server = Server()
    more = {"max_batch_size": BATCH, "max_wait_time": int(WAIT_MS)} if BATCH > 1 else {}
    server.append_worker(Student, num=WORKERS, **more)
    server.run()
