"""MNIST and Fashion-MNIST, from the four idx files of each in the data directory."""

from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.datasets import Split
from shared.datasets.builtin.table import Builtin, Files, Read, in_data_dir
from shared.datasets.idx import read_idx
from shared.datasets.splits import stratified
from shared.errors import InvalidDataset

DIGITS: Final = tuple("0123456789")
CLOTHES: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_VALIDATION = 5_000
"""Images of the 60,000, drawn a class at a time."""


def _files(folder: str) -> tuple[str, ...]:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{folder}/{part}-ubyte" for part in parts)


def _read(files: Files, *, classes: tuple[str, ...]) -> Read:
    train, train_labels = _read_part(*files[:2], classes=len(classes))
    test, test_labels = _read_part(*files[2:], classes=len(classes))
    if len(train) <= _VALIDATION:
        raise InvalidDataset(f"{files[0].name} should hold 60,000 images, holds {len(train):,}")
    validation, rest = stratified(train_labels, (_VALIDATION / len(train_labels),))
    splits = {
        "train": Split(train[rest], train_labels[rest]),
        "validation": Split(train[validation], train_labels[validation]),
        "test": Split(test, test_labels),
    }
    return splits, classes


def _read_part(images: Path, labels: Path, *, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels, indices = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or indices.shape != pixels.shape[:1]:
        raise InvalidDataset(f"{images.name} and {labels.name} are not MNIST, or do not fit each other")
    if indices.size and indices.max() >= classes:
        raise InvalidDataset(f"{labels.name} names class {indices.max()}; there are {classes}")
    return pixels[..., np.newaxis], indices.astype(np.int64)


MNIST: Final = Builtin(in_data_dir(*_files("mnist")), partial(_read, classes=DIGITS))
FASHION_MNIST: Final = Builtin(in_data_dir(*_files("fashion-mnist")), partial(_read, classes=CLOTHES))
