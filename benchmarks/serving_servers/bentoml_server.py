"""BentoML, with uvloop and httptools beside it, which it does not install itself: they help.

The setting is workers and largest batch: `2x32`.

python bentoml_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__":
    port, model, height, width, channels, setting = sys.argv[1:7]
    workers, _, batch = setting.partition("x")
    os.environ |= {"BENCH_MODEL": model, "BENCH_SIZE": f"{height} {width} {channels}", "BENCH_BATCH": batch}
    os.environ |= {"BENCH_WORKERS": workers, "BENTOML_DO_NOT_TRACK": "1"}
    here = Path(__file__).resolve()
    binary = Path(sys.executable).with_name("bentoml")
    os.execv(  # in place of this process, so that a signal reaches it
        binary,
        [str(binary), "serve", f"{here.stem}:Student", "--port", port, "--working-dir", str(here.parent)],
    )

import bentoml
import numpy as np
import onnxruntime
from PIL import Image

HEIGHT, WIDTH, CHANNELS = map(int, os.environ["BENCH_SIZE"].split())
BATCH = int(os.environ["BENCH_BATCH"])
_BATCHED = {"batchable": True, "max_batch_size": BATCH, "max_latency_ms": 1000} if BATCH > 1 else {}


def _pixels(image: Any) -> Any:
    return np.asarray(image.convert("L" if CHANNELS == 1 else "RGB"), dtype=np.uint8)


@bentoml.service(workers=int(os.environ["BENCH_WORKERS"]), traffic={"timeout": 30})
class Student:
    """Takes a file."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options)

    def _run(self, rows: Any) -> Any:
        rows = rows.reshape(-1, HEIGHT, WIDTH, CHANNELS)
        return self.session.run(["probabilities"], {"images": rows})[0]

    if BATCH > 1:

        @bentoml.api(**_BATCHED)
        def predict(self, image: list[Image.Image]) -> Annotated[list[list[float]], "probabilities"]:
            """Return the probabilities of a batch."""
            found: list[list[float]] = self._run(np.stack([_pixels(one) for one in image])).tolist()
            return found

    else:

        @bentoml.api
        def predict(self, image: Image.Image) -> Annotated[list[float], "probabilities"]:
            """Return the probabilities of one image."""
            found: list[float] = self._run(_pixels(image))[0].tolist()
            return found
