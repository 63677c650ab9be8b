"""The trials of the `linear` experiment, with the losses that train students.

Loads torch, so it is imported only where it is run. After the distillation walk-through: x is normal with
deviation 10, P(y = 1 | x) = 0.5 + 0.4 sin x; the student sees 1, x, x² and x³ and cannot learn that, the
teacher sees 1 and sin x and can. Both learn from the same few examples.
"""

import statistics
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.experiment import Form
from experiments.linear import TRIALS
from experiments.result import Values
from shared.distillation.losses import hard_label_loss, soft_target_loss

SIZES = tuple(range(10, 50, 5))
EXAMPLES = 10_000
"""Drawn anew in each trial; those that are not trained on are held out."""
SEED = 1234
"""The same data at every size, as in the walk-through."""
RIDGE = 1.0
"""The penalty on a model's weights but its bias, |w|² / 2 beside the *sum* of the losses, for all three."""
MODELS = ("student", "teacher", "distilled")

Loss = Callable[[Tensor], Tensor]


def run(_form: Form) -> dict[str, Values]:
    """Return by model the mean log loss over trials at each size, and its standard error held out."""
    means: dict[str, list[float]] = {
        f"{model}.{of}": [] for model in MODELS for of in ("train", "test", "error")
    }
    for size in SIZES:
        rng = np.random.default_rng(SEED)
        trials = [trial(size, *draw(rng, EXAMPLES)) for _ in range(TRIALS)]
        for model in MODELS:
            for split in ("train", "test"):
                means[f"{model}.{split}"].append(statistics.fmean(one[f"{model}.{split}"] for one in trials))
            spread = statistics.stdev(one[f"{model}.test"] for one in trials)
            means[f"{model}.error"].append(spread / TRIALS**0.5)
    return {"examples": tuple(map(float, SIZES))} | {name: tuple(values) for name, values in means.items()}


def draw(rng: np.random.Generator, examples: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points (N) and their noisy classes (N), 0 or 1."""
    x = rng.standard_normal(examples) * 10
    return x, rng.binomial(1, 0.4 * np.sin(x) + 0.5)


def trial(size: int, x: NDArray[np.float64], y: NDArray[np.int64]) -> dict[str, float]:
    """Fit all three on the first examples; return each one's log loss in nats, in training and held out."""
    points, labels = torch.from_numpy(x), torch.from_numpy(y)
    # x / 10 has deviation 1: the penalty then means the same for every power.
    cubic = torch.stack([(points / 10) ** power for power in range(4)], -1)
    sine = torch.stack([torch.ones_like(points), points.sin()], -1)
    train = slice(size)

    def hard(logits: Tensor) -> Tensor:
        return hard_label_loss(logits, labels[train])

    student = fit(cubic[train], hard)
    teacher = fit(sine[train], hard)
    soft_targets = two_classes(sine[train], teacher)

    def soft(logits: Tensor) -> Tensor:
        return soft_target_loss(logits, soft_targets, temperature=1.0)

    distilled = fit(cubic[train], soft)
    found = {}
    for model, inputs, weights in (
        ("student", cubic, student),
        ("teacher", sine, teacher),
        ("distilled", cubic, distilled),
    ):
        logits = two_classes(inputs, weights)
        found[f"{model}.train"] = float(hard_label_loss(logits[train], labels[train]))
        found[f"{model}.test"] = float(hard_label_loss(logits[size:], labels[size:]))
    return found


def fit(inputs: Tensor, loss: Loss) -> Tensor:
    """Return the weights of the logistic regression with the least penalised loss; the first is the bias."""
    weights = torch.zeros(inputs.shape[-1], dtype=inputs.dtype, requires_grad=True)
    # A handful of numbers: a second-order method ends in a few steps.
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=100, tolerance_grad=1e-8, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalised = loss(two_classes(inputs, weights)) + RIDGE * (weights[1:] ** 2).sum() / (2 * len(inputs))
        penalised.backward()  # type: ignore[no-untyped-call]
        return penalised

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return weights.detach()


def two_classes(inputs: Tensor, weights: Tensor) -> Tensor:
    """Return the logits of classes 0 and 1, N x 2; softmax of them is the logistic function."""
    score = inputs @ weights
    return torch.stack([torch.zeros_like(score), score], -1)
