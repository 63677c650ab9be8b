"""How far a training step on this CPU is from its matrix products alone.

Prints, for the student (784-800-800-10) and the teacher of the paper (784-1200-1200-10 with dropout, max-norm
and jitter), the time of a step, the time of `torch.mm` on the same shapes (the floor), and their ratio; then
six students of one shape (three seeds, taught and untaught) against one. Every epoch is measured next to a
floor of its own and against it, so that a busy machine slows both; ratios are medians over epochs.

    python -m benchmarks.training [--rounds 8] [--precision bfloat16] [--json FILE]
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from shared.contracts.architectures import Mlp
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.specs import PAPER_REGULARISATION
from shared.contracts.training import Budget, Objective, Regularisation
from shared.distillation.cohort import HARD_LABELS, Net, train_cohort
from shared.distillation.examples import Examples

BATCH = 256
STEPS = 20
"""An epoch."""
EPOCHS = 3
"""A round, of which the first is not counted."""
STUDENT, TEACHER = Mlp(hidden_units=(800, 800)), Mlp(hidden_units=(1200, 1200))
TAUGHT = Objective(temperature=4.0, soft_weight=0.5, hard_weight=0.5)
PREPROCESSING = Preprocessing(input=ImageInput(height=28, width=28, channels=1), mean=(0.13,), std=(0.31,))


def main() -> None:
    """Measure and print; `--json` writes the figures too."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    figures = measure(asked.rounds, asked.precision)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}, {asked.precision}")
    for name, value in figures.items():
        print(f"{name:28} {value:8.3f}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(rounds: int, precision: str) -> dict[str, float]:
    """Return times in milliseconds a step, and ratios."""
    data = _examples()
    plain = Examples(data.images, data.labels)
    one = [Net("taught", 0, TAUGHT)]
    six = [
        Net(arm, seed, objective)
        for seed in (0, 1, 2)
        for arm, objective in (("taught", TAUGHT), ("untaught", HARD_LABELS))
    ]
    timings: dict[str, list[tuple[float, float]]] = {"student": [], "teacher": [], "six students": []}
    for _ in range(rounds):
        timings["student"] += _epochs(STUDENT, one, data, None, precision)
        timings["six students"] += _epochs(STUDENT, six, data, None, precision)
        timings["teacher"] += _epochs(TEACHER, [Net("teacher", 0)], plain, PAPER_REGULARISATION, precision)
    figures = {}
    for name, pairs in timings.items():
        figures[f"{name}: step ms"] = min(step for step, _ in pairs)
        figures[f"{name}: floor ms"] = min(floor for _, floor in pairs)
        figures[f"{name}: step / floor"] = statistics.median(step / floor for step, floor in pairs)
    figures["six students / one student"] = (
        figures["six students: step / floor"] / figures["student: step / floor"]
    )
    return figures


def _epochs(
    architecture: Mlp, nets: Sequence[Net], data: Examples, rule: Regularisation | None, precision: str
) -> list[tuple[float, float]]:
    """Return for each epoch but the first the milliseconds of a step of all nets, and of one net's floor."""
    pairs = []
    began = 0.0

    def on_epoch(done: int, _all: int, _figures: dict[str, float]) -> None:
        nonlocal began
        ended = time.perf_counter()
        floor = _floor_ms(architecture, precision)
        if done > 1:
            pairs.append((1000 * (ended - began) / STEPS, floor))
        began = time.perf_counter()

    train_cohort(
        architecture,
        nets,
        data,
        classes=10,
        preprocessing=PREPROCESSING,
        budget=Budget.model_validate({"epochs": EPOCHS, "batch_size": BATCH, "precision": precision}),
        regularisation=rule,
        on_epoch=on_epoch,
    )
    return pairs


def _floor_ms(architecture: Mlp, precision: str) -> float:
    """Return the milliseconds of a step's products: forward, for the weights, and for the layer before."""
    dtype = getattr(torch, precision)
    sizes = (784, *architecture.hidden_units, 10)
    shapes = []
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        shapes += [(BATCH, inputs, outputs), (outputs, BATCH, inputs)]
        if layer:
            shapes.append((BATCH, outputs, inputs))
    operands = [
        (
            torch.randn(rows, inner).to(dtype),
            torch.randn(inner, columns).to(dtype),
            torch.empty(rows, columns),
        )
        for rows, inner, columns in shapes
    ]
    operands = [(left, right, out.to(dtype)) for left, right, out in operands]

    def products() -> None:
        for left, right, out in operands:
            torch.mm(left, right, out=out)

    products()
    began = time.perf_counter()
    for _ in range(STEPS):
        products()
    return 1000 * (time.perf_counter() - began) / STEPS


def _examples() -> Examples:
    generator = torch.Generator().manual_seed(0)
    rows = BATCH * STEPS
    return Examples(
        images=torch.randint(0, 256, (rows, 28, 28, 1), generator=generator).to(torch.uint8),
        labels=torch.randint(0, 10, (rows,), generator=generator),
        teacher_logits=(4 * torch.randn(1, rows, 10, generator=generator)).half(),
    )


if __name__ == "__main__":
    main()
