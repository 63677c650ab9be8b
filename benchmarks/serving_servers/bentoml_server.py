"""BentoML, with uvloop and httptools beside it, which it does not install itself: they help.

The setting is workers and largest batch: `2x32`. Images come as its documentation has them, as a form.

python bentoml_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__":
    os.environ |= {"BENCH_ARGUMENTS": " ".join(sys.argv[1:]), "BENTOML_DO_NOT_TRACK": "1"}
    here = Path(__file__).resolve()
    binary = Path(sys.executable).with_name("bentoml")
    os.execv(  # in place of this process, so that a signal reaches it
        binary,
        [
            *(str(binary), "serve", f"{here.stem}:Student", "--port", sys.argv[1]),
            *("--working-dir", str(here.parent)),
        ],
    )

import bentoml
import numpy as np
from model import Model, words
from PIL import Image

_, MODEL, *_SIZE, _SETTING = os.environ["BENCH_ARGUMENTS"].split(" ")
WORKERS, BATCH, _ = words(_SETTING)
_BATCHED = {"batchable": True, "max_batch_size": BATCH, "max_latency_ms": 1000} if BATCH > 1 else {}
_MODE = "L" if _SIZE[2] == "1" else "RGB"
_SHAPE = (-1, *map(int, _SIZE))


def _pixels(images: list[Any]) -> Any:
    return np.stack([np.asarray(image.convert(_MODE), dtype=np.uint8) for image in images]).reshape(_SHAPE)


@bentoml.service(workers=WORKERS, traffic={"timeout": 30})
class Student:
    """Takes a file."""

    def __init__(self) -> None:
        self.model = Model(MODEL, *map(int, _SIZE))

    if BATCH > 1:

        @bentoml.api(**_BATCHED)
        def predict(self, image: list[Image.Image]) -> Annotated[list[list[float]], "probabilities"]:
            """Return the probabilities of a batch."""
            found: list[list[float]] = self.model.probabilities(_pixels(image)).tolist()
            return found

    else:

        @bentoml.api
        def predict(self, image: Image.Image) -> Annotated[list[float], "probabilities"]:
            """Return the probabilities of one image."""
            found: list[float] = self.model.probabilities(_pixels([image]))[0].tolist()
            return found
