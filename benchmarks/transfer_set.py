"""How fast transfer sets are written, found again and read, and what memory that takes as they grow.

For each size a process builds a set of so many rows: two views (as it is; shifted and mirrored) of grey
images of 28 pixels, which lie in a file and are mapped. Its teacher is in the same process and costs next to
nothing, so what is measured is ours. A second process builds another set of this teacher, of which it asks
nothing; a third opens the set. Each tells rows a second, and by how much its anonymous memory (RssAnon,
sampled) rose at most: pages of mapped files are the kernel's to take back, and not counted.

    python -m benchmarks.transfer_set [--rows 100000 1000000] [--classes 10] [--top-k 5] [--folder /var/tmp]
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.files import digest_of
from shared.contracts.images import ImageInput
from shared.contracts.training import TransferSetSpec
from shared.transfer_set.format import TransferSetInputs
from shared.transfer_set.selection import Selection, select_rows
from shared.transfer_set.store import TransferSetStore

VIEWS = 2
INPUT = ImageInput(height=28, width=28, channels=1)
SAMPLED_EVERY_S = 0.002
PHASES = {
    "build": "ask for all",
    "again": "find all in another set",
    "open": "read",
}


def main() -> None:
    """Measure each phase at each size, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--folder", type=Path, help="where sets are built, on a disk")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.phase is not None:
        print(json.dumps(measure(asked.phase, asked.rows[0], asked.classes, asked.top_k, asked.folder)))
        return
    print(f"{'rows':>10}  {'phase':24} {'seconds':>8} {'rows/s':>10} {'memory':>10} {'bytes a row':>12}")
    for rows in asked.rows:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            draw_images(rows // VIEWS, Path(folder) / "images.npy")
            for phase, words in PHASES.items():
                options = [f"--rows={rows}", f"--classes={asked.classes}", f"--folder={folder}"]
                options += [f"--top-k={asked.top_k}"] if asked.top_k else []
                said = json.loads(
                    subprocess.run(
                        [sys.executable, "-m", "benchmarks.transfer_set", f"--phase={phase}", *options],
                        check=True,
                        stdout=subprocess.PIPE,
                    ).stdout
                )
                print(
                    f"{rows:>10,}  {words:24} {said['seconds']:>8.1f} {rows / said['seconds']:>10,.0f} "
                    f"{said['anonymous_bytes'] / 1e6:>7.1f} MB {said['anonymous_bytes'] / rows:>12.1f}"
                )


def draw_images(images: int, path: Path) -> None:
    """Write so many images of noise to a file, a part at a time."""
    rng = np.random.default_rng(0)
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (images, INPUT.height, INPUT.width, 1))
    for begin in range(0, images, 8192):
        part = file[begin : begin + 8192]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)


def measure(phase: str, rows: int, classes: int, top_k: int | None, folder: Path) -> dict[str, float]:
    """Run one phase in this process; return its seconds and the most anonymous memory that it added."""
    store = TransferSetStore(str(folder / "sets"), folder / "cache")
    inputs = inputs_of(rows, classes, top_k)
    images: NDArray[np.uint8] = np.load(folder / "images.npy", mmap_mode="r")

    def build(inputs: TransferSetInputs, *, may_ask: bool) -> None:
        names = inputs.classes
        selection: Selection = select_rows(inputs.spec, None, names, images=len(images))
        writer = store.writer(inputs, images=images, selection=selection, known=store.known(inputs))
        for number in writer.missing_shards():
            batch = writer.batch(number)
            assert may_ask or not len(batch.rows), "all should be known"
            writer.write_shard(number, answer(batch.images, classes))
        writer.finish()

    def run() -> None:
        if phase == "build":
            build(inputs, may_ask=True)
        elif phase == "again":
            fewer_labels = inputs.spec.model_copy(update={"label_share": 0.5})
            build(inputs.model_copy(update={"spec": fewer_labels}), may_ask=False)
        else:
            store.open(inputs.digest)

    began = time.perf_counter()
    added = most_anonymous_bytes(run)
    return {"seconds": time.perf_counter() - began, "anonymous_bytes": added}


def inputs_of(rows: int, classes: int, top_k: int | None) -> TransferSetInputs:
    """Return what a set of so many rows is made from."""
    return TransferSetInputs(
        dataset_digest=digest_of("noise"),
        input=INPUT,
        rows=rows // VIEWS,
        teacher="cheap",
        teacher_digest=digest_of("cheap"),
        preprocessing_digest=digest_of("none"),
        classes=tuple(map(str, range(classes))),
        spec=TransferSetSpec(views=VIEWS, jitter_px=2, flip=True, top_k=top_k),
        tempers=True,
    )


def answer(images: NDArray[np.uint8], classes: int) -> NDArray[np.float16]:
    """Return some pixels as logits, as a service would answer: zero mean, 16-bit floats."""
    pixels = images.reshape(len(images), INPUT.values)
    z = pixels[:, np.arange(classes) * 79 % INPUT.values].astype(np.float32) / 32
    z -= z.mean(axis=1, keepdims=True)
    return z.astype(np.float16)


def most_anonymous_bytes(run: Callable[[], None]) -> int:
    """Return how far the anonymous memory of this process rose above what it was, while `run` ran."""
    before, most, done = anonymous_bytes(), [0], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLED_EVERY_S):
            most[0] = max(most[0], anonymous_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        run()
    finally:
        done.set()
        thread.join()
    return max(most[0], anonymous_bytes()) - before


def anonymous_bytes() -> int:
    """Return the anonymous memory that this process has in RAM."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "Linux 4.5 and later say so"
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
