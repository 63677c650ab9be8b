"""The real datasets of the data directory, where there is one: `IMAGO_DATA_DIR`."""

import os
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.datasets import Split
from shared.contracts.datasets import BUILTIN_DATASETS
from shared.datasets.builtin import TABLE, available, load_builtin

EXPECTED: dict[str, tuple[int, tuple[int, int, int], tuple[int, int, int]]] = {
    "mnist": (10, (55_000, 5_000, 10_000), (28, 28, 1)),
    "mnist-5k": (10, (3_500, 500, 1_000), (28, 28, 1)),
    "fashion-mnist": (10, (55_000, 5_000, 10_000), (28, 28, 1)),
    "cifar10": (10, (45_000, 5_000, 10_000), (32, 32, 3)),
    "spoken-digits": (10, (106_417, 13_250, 13_083), (40, 11, 1)),
    "omniglot": (242, (3_146, 484, 1_210), (28, 28, 1)),
    "tiny-imagenet-32": (200, (90_000, 10_000, 10_000), (32, 32, 3)),
    "tiny-imagenet-32-100": (100, (45_000, 5_000, 5_000), (32, 32, 3)),
}
"""Classes; images of train, validation and test; height, width and channels."""


def test_every_builtin_dataset_is_described_read_and_expected_here() -> None:
    assert set(TABLE) == set(BUILTIN_DATASETS) == set(EXPECTED)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_dataset_has_its_published_sizes_and_looks_like_its_labels(name: str) -> None:
    setting = os.environ.get("IMAGO_DATA_DIR")
    data_dir = Path(setting) if setting else None
    if not available(name, data_dir):
        pytest.skip(f"the files of {name} are not there: set IMAGO_DATA_DIR to a folder that has them")
    classes, counts, shape = EXPECTED[name]
    splits, names, _ = load_builtin(name, data_dir)
    assert len(names) == classes
    assert tuple(len(splits[split]) for split in ("train", "validation", "test")) == counts
    for split in splits.values():
        assert split.images.shape[1:] == shape
        assert split.labels is not None
        assert len(np.unique(split.labels)) == classes
    assert _right_by_class_means(splits["train"], splits["test"], classes) > 2 / classes


def _right_by_class_means(train: Split, test: Split, classes: int) -> float:
    """Return the accuracy of the nearest class mean: far above chance where labels belong to pixels."""
    assert train.labels is not None
    assert test.labels is not None
    sums = np.zeros((classes, train.images[0].size))
    for begin in range(0, len(train), 1_000):
        piece = slice(begin, begin + 1_000)
        np.add.at(
            sums, train.labels[piece], train.images[piece].reshape(-1, sums.shape[1]).astype(np.float64)
        )
    means = sums / np.bincount(train.labels, minlength=classes)[:, np.newaxis]
    rows = np.random.default_rng(0).permutation(len(test))[:2_000]
    images = test.images[rows].reshape(len(rows), -1).astype(np.float64)
    distances = (means**2).sum(axis=1) - 2 * images @ means.T
    return float((distances.argmin(axis=1) == test.labels[rows]).mean())
