"""Divides labelled images into train, validation and test, class by class, the same way each time."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.datasets import Split

SEED: Final = 20150309  # the day arXiv:1503.02531 appeared
HELD_OUT_SHARE: Final = 0.1

Indices = NDArray[np.int64]

Loaded = tuple[dict[str, Split], tuple[str, ...], str]
"""A dataset that was read: splits, classes in the order of the labels, and in words where it comes from."""


def stratified(
    labels: NDArray[np.int64], shares: tuple[float, ...], *, seed: int = SEED
) -> tuple[Indices, ...]:
    """Draw parts of the rows so that each class has its share in each, and the sizes come out right.

    Args:
        labels: a class index for each row.
        shares: of each part; what they leave over 1 comes last, as one more part.
        seed: the same seed draws the same rows.

    Returns:
        Sorted row indices of each part, disjoint and together all rows. A class with at least as many rows as
        there are parts is in every part; one with fewer is in the last part only.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[Indices]] = [[] for _ in range(len(shares) + 1)]
    owed = [0.0] * len(shares)  # what rounding kept from a part goes to it in a later class
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        begin = 0
        if len(rows) >= len(parts):
            for i, share in enumerate(shares):
                # At least one here, and at least one left for each part that follows.
                owed[i] += len(rows) * share
                taken = min(max(1, round(owed[i])), len(rows) - begin - (len(shares) - i))
                owed[i] = min(max(owed[i] - taken, -0.5), 0.5)
                parts[i].append(rows[begin : begin + taken])
                begin += taken
        parts[-1].append(rows[begin:])
    return tuple(np.sort(np.concatenate([*part, np.zeros(0, np.int64)])) for part in parts)


def take(split: Split, rows: Indices) -> Split:
    """Return some rows of a split, copied."""
    return Split(split.images[rows], None if split.labels is None else split.labels[rows])


def complete(splits: Mapping[str, Split]) -> dict[str, Split]:
    """Give a labelled dataset the splits it lacks: each takes a tenth of the training images.

    Images that came without a split become 80 % train, 10 % validation and 10 % test; train and test become
    90 % train, 10 % validation and the test as it is. Training images without labels cannot be divided by
    class: they stay, and a split that is missing stays missing.
    """
    completed = dict(splits)
    train = completed["train"]
    missing = [name for name in ("validation", "test") if name not in completed]
    if missing and train.labels is not None:
        *drawn, rest = stratified(train.labels, (HELD_OUT_SHARE,) * len(missing))
        for name, rows in zip(missing, drawn, strict=True):
            completed[name] = take(train, rows)
        completed["train"] = take(train, rest)
    return completed
