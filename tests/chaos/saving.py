"""Writes checkpoints without end, to be killed at any moment: `python -m tests.chaos.saving FOLDER`.

It imports torch once. For each line on its standard input it forks a process that goes on from the newest
checkpoint and writes one after another; it says `go PID` first, the number of each checkpoint once that is
written, and `dead` once the process has been killed.
"""

import os
import sys
from pathlib import Path

import torch

from shared.distillation.checkpoint import CohortCheckpoint, CohortState
from shared.distillation.records import NetRecord

TRAINING = "a" * 64
NUMBERS = 200_000
"""In the weights: 0.8 MB take about as long to digest and to write as all the rest of a save."""


def checkpoint_of(folder: Path) -> CohortCheckpoint:
    return CohortCheckpoint(folder, TRAINING)


def newest(folder: Path) -> int:
    """Return the number of the newest checkpoint, 0 where there is none; all its weights say it, too."""
    found = checkpoint_of(folder).newest()
    if found is None:
        return 0
    state, tensors = found
    assert bool((tensors["0/weights"] == state.step).all()), "the weights are of another checkpoint"
    return state.step


def save_without_end(folder: Path) -> None:
    number = newest(folder)
    while True:
        number += 1
        state = CohortState(
            training=TRAINING, epoch=0, step=number, seconds=0.0, threads=1, nets=(NetRecord(),)
        )
        checkpoint_of(folder).save(state, {"0/weights": torch.full((NUMBERS,), float(number))})
        os.write(1, f"{number}\n".encode())


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    os.write(1, b"ready\n")
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.write(1, f"go {os.getpid()}\n".encode())
            save_without_end(folder)
        os.waitpid(pid, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()
