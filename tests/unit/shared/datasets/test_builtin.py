"""The built-in datasets."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.datasets import DatasetStore, Split
from shared.datasets.builtin import available, ensure, load_builtin
from shared.errors import DatasetNotFound, InvalidDataset
from tests.support.idx import idx_bytes


@pytest.fixture(scope="module")
def digits() -> dict[str, Split]:
    return load_builtin("mnist-5k", None)[0]


def test_mnist_5k_has_350_50_and_100_images_of_each_digit(digits: dict[str, Split]) -> None:
    counts = {name: np.bincount(split.labels).tolist() for name, split in digits.items()}  # type: ignore[arg-type]
    assert counts == {"train": [350] * 10, "validation": [50] * 10, "test": [100] * 10}


def test_mnist_5k_splits_share_no_image(digits: dict[str, Split]) -> None:
    images = [image.tobytes() for split in digits.values() for image in split.images]
    assert len(set(images)) == len(images) == 5_000


def test_mnist_5k_looks_like_digits(digits: dict[str, Split]) -> None:
    """The nearest class mean is right for some 80 % of MNIST: pixels, order and labels belong together."""
    train, test = digits["train"], digits["test"]
    means = np.stack([train.images[train.labels == digit].mean(axis=0).ravel() for digit in range(10)])
    flat = test.images.reshape(len(test), -1).astype(np.float64)
    nearest = ((flat[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == test.labels).mean() > 0.75


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A small MNIST: 6,000 + 100 images with their label as only pixel, half of the files gzipped."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for prefix, n in (("train", 6_000), ("t10k", 100)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(labels.reshape(n, 1, 1)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    return tmp_path / "data"


def test_mnist_is_read_from_the_data_directory(data_dir: Path) -> None:
    splits, classes, _ = load_builtin("mnist", data_dir)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 1_000,
        "validation": 5_000,
        "test": 100,
    }
    assert classes == tuple("0123456789")
    for split in splits.values():
        np.testing.assert_array_equal(split.images[:, 0, 0, 0], split.labels)


def test_what_is_available_depends_on_the_files(data_dir: Path) -> None:
    assert available("mnist-5k", None)
    assert available("mnist", data_dir)
    assert not available("mnist", None)
    assert not available("cifar-10", data_dir)
    (data_dir / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert not available("mnist", data_dir)


def test_mnist_of_the_wrong_length_is_refused(data_dir: Path) -> None:
    (data_dir / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros(9))))
    with pytest.raises(InvalidDataset, match="t10k"):
        load_builtin("mnist", data_dir)


def test_a_built_in_dataset_is_imported_on_first_use(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path)
    manifest = ensure(store, "mnist-5k", None)
    assert store.names() == ["mnist-5k"]
    assert ensure(store, "mnist-5k", None) == manifest
    assert manifest.counts.model_dump() == {"train": 3_500, "validation": 500, "test": 1_000}
    # Mean and deviation of MNIST are 0.1307 and 0.3081; of 3,500 images nearly so.
    np.testing.assert_allclose([*manifest.pixel_mean, *manifest.pixel_std], [0.1307, 0.3081], atol=0.005)


def test_a_stored_dataset_needs_no_files(tmp_path: Path, data_dir: Path) -> None:
    store = DatasetStore(tmp_path / "store")
    manifest = ensure(store, "mnist", data_dir)
    assert ensure(store, "mnist", None) == manifest


@pytest.mark.parametrize("name", ["mnist", "nothing", "../mnist-5k"])
def test_what_is_neither_stored_nor_there_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetNotFound):
        ensure(DatasetStore(tmp_path), name, None)


def test_a_missing_built_in_says_where_its_files_belong(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound) as caught:
        ensure(DatasetStore(tmp_path), "mnist", None)
    assert "IMAGO_DATA_DIR/mnist" in caught.value.remedy
