"""The floor: ONNX Runtime alone, without HTTP, images or JSON. Prints images per second as JSON.

Each of some processes makes calls of some images on one thread, all for the same seconds. No server on these
cores can answer more images than that.

python raw_onnx.py MODEL HEIGHT WIDTH CHANNELS SECONDS
"""

import json
import multiprocessing
import sys
import time
from typing import Any

import numpy as np
import onnxruntime

PROCESSES = (1, 2)
BATCHES = (1, 8, 32)


def work(arguments: tuple[str, tuple[int, ...], int, float, float]) -> float:
    """Return the images per second of one process, which begins and ends with the others."""
    path, size, batch, begin, seconds = arguments
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (batch, *size), dtype=np.uint8)
    session.run(["probabilities"], {"images": images})
    time.sleep(max(0.0, begin - time.time()))
    began = time.perf_counter()
    calls = 0
    while time.perf_counter() - began < seconds:
        session.run(["probabilities"], {"images": images})
        calls += 1
    return calls * batch / (time.perf_counter() - began)


def main() -> None:
    """Measure every combination."""
    path, *size, seconds = sys.argv[1:6]
    spawn: Any = multiprocessing.get_context("spawn")
    found = {}
    with spawn.Pool(max(PROCESSES)) as pool:
        pool.map(time.sleep, [0.2] * max(PROCESSES), chunksize=1)  # all of them are up
        for processes in PROCESSES:
            for batch in BATCHES:
                given = (path, tuple(map(int, size)), batch, time.time() + 0.5, float(seconds))
                found[f"{processes} x {batch}"] = sum(pool.map(work, [given] * processes, chunksize=1))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
