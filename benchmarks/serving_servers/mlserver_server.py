"""MLServer with a runtime of our own. The setting is workers, largest batch and wait; 0 workers: in process.

The image comes as the base64 of a BYTES tensor of the Open Inference Protocol.

python mlserver_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import base64
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from model import Model, words

if __name__ == "__main__":
    port, *_, setting = sys.argv[1:7]
    workers, batch, wait_ms = words(setting)
    here = Path(__file__).resolve()
    at = Path(tempfile.mkdtemp(prefix="bench-mlserver-"))
    (at / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": int(port),
                "grpc_port": int(os.environ["BENCH_PORT_2"]),
                "metrics_port": int(os.environ["BENCH_PORT_3"]),
                "parallel_workers": workers,
                "debug": False,
            }
        )
    )
    batching = {"max_batch_size": batch, "max_batch_time": wait_ms / 1000} if batch > 1 else {}
    (at / "model-settings.json").write_text(
        json.dumps({"name": "student", "implementation": f"{here.stem}.Student", **batching})
    )
    os.environ |= {
        "BENCH_ARGUMENTS": " ".join(sys.argv[1:]),
        "PYTHONPATH": str(here.parent),
        "MLSERVER_LOGGING_SETTINGS": json.dumps(
            {"version": 1, "root": {"level": "WARNING"}, "disable_existing_loggers": True}
        ),
    }
    binary = Path(sys.executable).with_name("mlserver")
    os.chdir(at)
    os.execv(binary, [str(binary), "start", str(at)])

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Student(MLModel):
    """Decodes and runs what one request, or several merged ones, carry."""

    async def load(self) -> bool:
        """Load the model."""
        _, path, *size, _ = os.environ["BENCH_ARGUMENTS"].split(" ")
        self.student = Model(path, *map(int, size))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the probabilities."""
        given: Any = payload.inputs[0].data
        found = self.student.of_encoded([base64.b64decode(one) for one in getattr(given, "root", given)])
        output = ResponseOutput(
            name="probabilities", shape=list(found.shape), datatype="FP32", data=found.ravel().tolist()
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
