"""The datasets that every installation knows by name; nothing is downloaded, nothing unpacked to disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from shared.artefacts.datasets import DatasetStore
from shared.contracts.datasets import BUILTIN_DATASETS, DatasetManifest
from shared.datasets.builtin import cifar10, mnist, mnist_5k, omniglot, spoken_digits, tiny_imagenet
from shared.datasets.builtin.mnist import DIGITS
from shared.datasets.builtin.table import Builtin
from shared.datasets.splits import Loaded
from shared.errors import DatasetNotFound

__all__ = ["DIGITS", "TABLE", "available", "ensure", "load_builtin"]

TABLE: Final[Mapping[str, Builtin]] = {
    "mnist": mnist.MNIST,
    "mnist-5k": mnist_5k.MNIST_5K,
    "fashion-mnist": mnist.FASHION_MNIST,
    "cifar10": cifar10.CIFAR10,
    "spoken-digits": spoken_digits.SPOKEN_DIGITS,
    "omniglot": omniglot.OMNIGLOT,
    "tiny-imagenet-32": tiny_imagenet.ALL_CLASSES,
    "tiny-imagenet-32-100": tiny_imagenet.FIRST_100_CLASSES,
}
"""The datasets that `contracts.datasets.BUILTIN_DATASETS` describes."""


def available(name: str, data_dir: Path | None) -> bool:
    """Tell whether the files of a built-in dataset are there.

    Args:
        name: of the dataset; False for what is not built in.
        data_dir: the data directory of the installation (`IMAGO_DATA_DIR`), with a folder a dataset.
    """
    return name in TABLE and TABLE[name].find(data_dir) is not None


def load_builtin(name: str, data_dir: Path | None) -> Loaded:
    """Read a built-in dataset from its files.

    Raises:
        DatasetNotFound: no built-in dataset has this name, or its files are not there.
        InvalidDataset: its files are broken.
    """
    if name in TABLE and (files := TABLE[name].find(data_dir)) is not None:
        splits, classes = TABLE[name].read(files)
        return splits, classes, BUILTIN_DATASETS[name]
    error = DatasetNotFound(name)
    if name in BUILTIN_DATASETS:
        error.remedy = f"It is built in, but its files are missing: {BUILTIN_DATASETS[name]}."
    raise error


def ensure(store: DatasetStore, name: str, data_dir: Path | None) -> DatasetManifest:
    """Return the manifest of a dataset; a built-in one is imported into the store on its first use.

    Raises:
        DatasetNotFound: neither stored nor built in and available.
        InvalidDataset: it is built in and its files are broken.
    """
    try:
        return store.get(name)
    except DatasetNotFound:
        splits, classes, source = load_builtin(name, data_dir)
        return store.put(name, splits, classes=classes, source=source)
