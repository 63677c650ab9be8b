"""Uploads of idx files, and what is no upload."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.datasets import Split
from shared.datasets.limits import UploadLimits
from shared.datasets.uploads import read_upload
from shared.errors import InvalidDataset, LabelsMissing
from tests.support.idx import idx_bytes
from tests.support.uploads import Digits, folders_of, write_parquet, write_zip


class Folder:
    """Collects the files of an upload."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names: list[str] = []

    def add(self, name: str, array: np.ndarray) -> None:
        data = idx_bytes(array)
        (self.directory / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        self.names.append(name)

    def read(self, **options: object) -> tuple[dict[str, Split], tuple[str, ...], str]:
        return read_upload([self.directory / name for name in self.names], self.names, **options)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def arrays(digits: Digits) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([image[..., 0] for image, _ in digits]), np.array(
        [label for _, label in digits], np.uint8
    )


def test_four_files_are_train_and_test(folder: Folder, digits: Digits) -> None:
    for prefix, part in (("train", digits[:100]), ("t10k", digits[100:])):
        images, labels = arrays(part)
        folder.add(f"{prefix}-labels-idx1-ubyte.gz", labels)
        folder.add(f"{prefix}-images-idx3-ubyte", images)
    splits, classes, _ = folder.read()
    assert classes == tuple("0123456789")
    assert {name: len(split) for name, split in splits.items()} == {"train": 90, "validation": 10, "test": 20}
    images, labels = arrays(digits[100:])
    np.testing.assert_array_equal(splits["test"].images[..., 0], images)
    np.testing.assert_array_equal(splits["test"].labels, labels)


@pytest.mark.parametrize("prefix", ["", "t10k-", "train-"])
def test_two_files_are_divided_in_three(folder: Folder, digits: Digits, prefix: str) -> None:
    images, labels = arrays(digits)
    folder.add(f"{prefix}images", images)
    folder.add(f"{prefix}labels", labels)
    splits, _, _ = folder.read()
    assert {name: len(split) for name, split in splits.items()} == {"train": 96, "validation": 12, "test": 12}


def test_labels_that_do_not_begin_at_0_keep_their_names(folder: Folder, digits: Digits) -> None:
    images, labels = arrays(digits)
    folder.add("images", images)
    folder.add("labels", np.where(labels < 5, 7, 120).astype(np.uint8))
    splits, classes, _ = folder.read()
    assert classes == ("7", "120")
    assert set(splits["train"].labels.tolist()) == {0, 1}  # type: ignore[union-attr]


def test_images_alone_are_unlabelled(folder: Folder, digits: Digits) -> None:
    folder.add("images", arrays(digits)[0])
    splits, classes, _ = folder.read()
    assert splits["train"].labels is None
    assert classes == ()
    with pytest.raises(LabelsMissing):
        folder.read(labels_required=True)


def test_images_are_resized_where_a_size_is_asked_for(folder: Folder, digits: Digits) -> None:
    images, labels = arrays(digits)
    folder.add("images", images)
    folder.add("labels", labels)
    assert folder.read(size=(14, 20))[0]["train"].images.shape[1:] == (14, 20, 1)


def test_images_with_three_channels_are_taken(folder: Folder) -> None:
    folder.add("images", np.zeros((20, 5, 6, 3)))
    folder.add("labels", np.arange(20) % 2)
    assert folder.read()[0]["train"].images.shape[1:] == (5, 6, 3)


def test_labels_of_another_length_are_refused(folder: Folder, digits: Digits) -> None:
    images, labels = arrays(digits)
    folder.add("images", images)
    folder.add("labels", labels[:-1])
    with pytest.raises(InvalidDataset, match="images has 120 images, labels 119 labels"):
        folder.read()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"labels": np.zeros(5)}, "labels for images that were not sent"),
        ({"a": np.zeros((5, 2, 2)), "b": np.zeros((5, 2, 2))}, "b and a are both images of the train split"),
        ({"a": np.zeros((5, 2, 2)), "b": np.zeros(5)}, "one class only"),
        ({"a": np.zeros((5, 2))}, "neither images"),
        ({"a": np.zeros((5, 2, 2, 4))}, "neither images"),
        ({"a": np.zeros((0, 2, 2))}, "neither images"),
        ({"a": np.zeros((1, 5000, 1))}, "4096"),
    ],
)
def test_files_that_make_no_dataset_are_refused(
    folder: Folder, files: dict[str, np.ndarray], words: str
) -> None:
    for name, array in files.items():
        folder.add(name, array)
    with pytest.raises(InvalidDataset, match=words):
        folder.read()


def test_limits_hold_for_images_and_bytes(folder: Folder, digits: Digits) -> None:
    images, labels = arrays(digits)
    folder.add("images", images)
    folder.add("labels", labels)
    whole = images.nbytes + labels.nbytes
    folder.read(limits=UploadLimits(members=120, unpacked_bytes=whole, decoded_bytes=images.nbytes))
    for limits in (
        UploadLimits(members=119),
        UploadLimits(unpacked_bytes=whole - 1),
        UploadLimits(decoded_bytes=images.nbytes - 1),
    ):
        with pytest.raises(InvalidDataset):
            folder.read(limits=limits)


# --- what is no upload -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\0", b"text", b"\x89PNG\r\n\x1a\n", b"\x80\x04\x95", b"ustar"])
def test_other_files_are_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InvalidDataset, match=r"my\?data\.bin is neither"):
        read_upload([tmp_path / "x"], ["my\ndata.bin"])


def test_kinds_cannot_be_mixed(tmp_path: Path, digits: Digits) -> None:
    files = [write_zip(tmp_path / "a", folders_of(digits)), write_parquet(tmp_path / "b", digits)]
    with pytest.raises(InvalidDataset, match="different kinds: parquet, zip"):
        read_upload(files, ["a", "b"])


def test_one_zip_at_a_time(tmp_path: Path, digits: Digits) -> None:
    path = write_zip(tmp_path / "a", folders_of(digits))
    with pytest.raises(InvalidDataset, match="one zip, not 2"):
        read_upload([path, path], ["a", "b"])


def test_no_files_and_missing_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="no files"):
        read_upload([], [])
    with pytest.raises(InvalidDataset, match="name"):
        read_upload([tmp_path], [])
