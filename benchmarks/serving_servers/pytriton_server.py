"""Triton by way of PyTriton. The setting is workers, largest batch and wait in ms, and what a tensor holds:
`1x32@0.5 png` is an encoded image, which the model decodes, `1x32@0.5 pixels` what the client has decoded.

Both come as binary tensors of the Open Inference Protocol.

python pytriton_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import os
import sys
from typing import Any

import numpy as np
from model import Model, words
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

PORT, MODEL, *SIZE = sys.argv[1:6]
_BATCHING, _, HOLDS = sys.argv[6].partition(" ")
WORKERS, BATCH, WAIT_MS = words(_BATCHING)


class Student:
    """Runs a batch."""

    def __init__(self) -> None:
        self.model = Model(MODEL, *map(int, SIZE))

    @batch
    def __call__(self, images: Any) -> Any:
        """Return the probabilities."""
        if HOLDS == "pixels":
            return {"probabilities": self.model.probabilities(images)}
        return {"probabilities": self.model.of_encoded(list(images.ravel()))}


if __name__ == "__main__":
    given = (
        Tensor(name="images", dtype=np.uint8, shape=tuple(map(int, SIZE)))
        if HOLDS == "pixels"
        else Tensor(name="images", dtype=bytes, shape=(1,))
    )
    config = TritonConfig(
        http_port=int(PORT),
        grpc_port=int(os.environ["BENCH_PORT_2"]),
        metrics_port=int(os.environ["BENCH_PORT_3"]),
        http_address="127.0.0.1",
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="student",
            infer_func=[Student() for _ in range(WORKERS)],
            inputs=[given],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(10,))],
            config=ModelConfig(
                max_batch_size=BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=int(WAIT_MS * 1000))
            ),
            strict=False,
        )
        triton.serve()
