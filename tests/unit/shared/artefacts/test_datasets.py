"""The store of datasets."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.datasets import DatasetStore, Split
from shared.contracts.kept import Frozen
from shared.errors import Corrupt, DatasetExists, DatasetNotFound, InvalidDataset

CLASSES = ("cat", "dog")


def make_split(n: int = 4, *, channels: int = 1, seed: int = 0, labelled: bool = True) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 5, 6, channels), dtype=np.uint8)
    return Split(images, np.arange(n) % 2 if labelled else None)


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets")


def test_a_dataset_comes_back_as_it_was_put(store: DatasetStore) -> None:
    splits = {"train": make_split(6), "validation": make_split(2, seed=1), "test": make_split(4, seed=2)}
    manifest = store.put("pets", splits, classes=CLASSES, source="a test")
    assert store.get("pets") == manifest
    assert store.names() == ["pets"]
    assert (manifest.counts.train, manifest.counts.validation, manifest.counts.test) == (6, 2, 4)
    assert (manifest.input.height, manifest.input.width, manifest.input.channels) == (5, 6, 1)
    assert manifest.labelled
    for name, split in splits.items():
        loaded = store.load("pets", name)
        np.testing.assert_array_equal(loaded.images, split.images, strict=True)
        np.testing.assert_array_equal(loaded.labels, split.labels, strict=True)


def test_pixel_statistics_are_those_of_the_training_images(store: DatasetStore) -> None:
    train = make_split(50, channels=3)
    manifest = store.put("pets", {"train": train, "test": make_split(channels=3)}, classes=CLASSES, source="")
    scaled = train.images.astype(np.float64) / 255
    np.testing.assert_allclose(manifest.pixel_mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(manifest.pixel_std, scaled.std(axis=(0, 1, 2)), rtol=1e-12)


def test_putting_the_same_content_again_changes_nothing(store: DatasetStore) -> None:
    first = store.put("pets", {"train": make_split()}, classes=CLASSES, source="once")
    again = store.put("pets", {"train": make_split()}, classes=CLASSES, source="twice")
    assert again == first


@pytest.mark.parametrize(
    ("splits", "classes"),
    [
        ({"train": make_split(seed=9)}, CLASSES),
        ({"train": make_split(), "test": make_split()}, CLASSES),
        ({"train": make_split()}, ("dog", "cat")),
        ({"train": make_split(labelled=False)}, ()),
    ],
)
def test_a_name_does_not_change_its_content(
    store: DatasetStore, splits: dict[str, Split], classes: tuple[str, ...]
) -> None:
    store.put("pets", {"train": make_split()}, classes=CLASSES, source="")
    with pytest.raises(DatasetExists):
        store.put("pets", splits, classes=classes, source="")


def test_the_digest_does_not_depend_on_the_name(store: DatasetStore) -> None:
    one = store.put("one", {"train": make_split()}, classes=CLASSES, source="")
    two = store.put("two", {"train": make_split()}, classes=CLASSES, source="")
    assert one.digest == two.digest


def test_a_split_digest_is_that_of_header_line_pixels_and_labels(store: DatasetStore) -> None:
    split = make_split()
    manifest = store.put("pets", {"train": split}, classes=CLASSES, source="")
    assert split.labels is not None
    content = b'[["uint8",[4,5,6,1]],["int64",[4]]]\n' + split.images.tobytes() + split.labels.tobytes()
    assert manifest.split_digests == {"train": hashlib.sha256(content).hexdigest()}


def test_unlabelled_training_images_need_no_classes(store: DatasetStore) -> None:
    manifest = store.put("raw", {"train": make_split(labelled=False)}, classes=(), source="")
    assert not manifest.labelled
    assert store.load("raw", "train").labels is None
    assert len(store.load("raw", "test")) == 0


def test_some_training_images_may_be_without_a_label(store: DatasetStore) -> None:
    frozen = Frozen(
        collection="c", base="pets", base_digest="0" * 64, job_id="j-1", taken=2, known=0, held_out=1
    )
    labels = np.array([1, -1, 0, -1])
    train = Split(GOOD.images, labels)
    manifest = store.put("mixed", {"train": train}, classes=CLASSES, source="test", frozen=frozen)
    assert (manifest.labelled, manifest.unlabelled) == (True, 2)
    assert store.get("mixed").frozen == frozen
    np.testing.assert_array_equal(store.load("mixed", "train").labels, labels)
    assert store.put("all", {"train": GOOD}, classes=CLASSES, source="test").unlabelled == 0


def test_a_deleted_dataset_is_gone_and_its_name_is_free(store: DatasetStore) -> None:
    store.put("pets", {"train": GOOD}, classes=CLASSES, source="test")
    store.delete("pets")
    assert store.names() == []
    for gone in (store.get, store.delete):
        with pytest.raises(DatasetNotFound):
            gone("pets")
    store.put("pets", {"train": make_split(seed=5)}, classes=CLASSES, source="test")


def test_a_split_without_images_is_empty_not_missing(store: DatasetStore) -> None:
    store.put("pets", {"train": make_split()}, classes=CLASSES, source="")
    empty = store.load("pets", "validation")
    assert empty.images.shape == (0, 5, 6, 1)
    assert empty.labels is not None


@pytest.mark.parametrize("name", ["nobody", "../pets", "pets/../pets", "", "PETS", "pets\n", ".", "a" * 65])
def test_what_is_not_there_is_not_found(store: DatasetStore, name: str) -> None:
    store.put("pets", {"train": make_split()}, classes=CLASSES, source="")
    with pytest.raises(DatasetNotFound):
        store.get(name)


GOOD = make_split()


@pytest.mark.parametrize(
    ("splits", "classes", "words"),
    [
        ({"test": GOOD}, CLASSES, "no training images"),
        ({"train": make_split(0)}, CLASSES, "no training images"),
        ({"train": GOOD}, ("cat",), "one class only"),
        ({"train": GOOD}, ("cat", "cat"), "differ"),
        ({"train": GOOD}, (), "labels must lie in"),
        ({"train": Split(GOOD.images, np.array([0, 1, 2, 0]))}, CLASSES, "labels must lie in 0 to 1"),
        ({"train": Split(GOOD.images, np.array([0, -2, 1, 0]))}, CLASSES, "labels must lie in 0 to 1"),
        ({"train": Split(GOOD.images, np.full(4, -1))}, CLASSES, "none of the train labels is one"),
        (
            {"train": GOOD, "test": Split(GOOD.images, np.array([0, -1, 1, 0]))},
            CLASSES,
            "test labels must lie in 0 to 1",
        ),
        ({"train": Split(GOOD.images, np.array([0, 1]))}, CLASSES, "4 images but 2 labels"),
        ({"train": Split(GOOD.images[:, :4], None), "test": GOOD}, CLASSES, "test images are"),
        ({"train": Split(GOOD.images.astype(float), None)}, (), "must be uint8"),  # type: ignore[arg-type]
        ({"train": Split(GOOD.images[..., 0], None)}, (), "must be uint8"),
        ({"train": GOOD, "test": make_split(labelled=False)}, CLASSES, "test images have no labels"),
        ({"train": make_split(labelled=False)}, CLASSES, "nothing in it is labelled"),
        ({"train": GOOD, "holdout": GOOD}, CLASSES, "holdout"),
    ],
)
def test_what_is_no_dataset_is_refused_and_leaves_nothing(
    store: DatasetStore, splits: dict[str, Split], classes: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InvalidDataset, match=words):
        store.put("pets", splits, classes=classes, source="")
    assert store.names() == []


def test_names_that_are_no_names_are_refused(store: DatasetStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="cannot be called"):
        store.put("../pets", {"train": make_split()}, classes=CLASSES, source="")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [-1, 200])
def test_a_changed_byte_is_corrupt(store: DatasetStore, tmp_path: Path, where: int) -> None:
    store.put("pets", {"train": make_split()}, classes=CLASSES, source="")
    path = tmp_path / "datasets/pets/train.safetensors"
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"train\.safetensors"):
        store.load("pets", "train")


def test_a_missing_or_truncated_file_is_corrupt(store: DatasetStore, tmp_path: Path) -> None:
    store.put("pets", {"train": make_split()}, classes=CLASSES, source="")
    path = tmp_path / "datasets/pets/train.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(Corrupt):
        store.load("pets", "train")
    path.unlink()
    with pytest.raises(Corrupt):
        store.load("pets", "train")


@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_a_broken_manifest_is_corrupt(store: DatasetStore, tmp_path: Path, text: str) -> None:
    store.put("pets", {"train": make_split()}, classes=CLASSES, source="")
    (tmp_path / "datasets/pets/manifest.json").write_text(text)
    with pytest.raises(Corrupt, match=r"manifest\.json"):
        store.get("pets")


def test_a_manifest_with_other_classes_is_corrupt(store: DatasetStore, tmp_path: Path) -> None:
    store.put("pets", {"train": make_split()}, classes=CLASSES, source="")
    path = tmp_path / "datasets/pets/manifest.json"
    path.write_text(path.read_text().replace('"cat"', '"cow"'))
    with pytest.raises(Corrupt):
        store.get("pets")


def test_what_a_killed_deletion_leaves_is_no_dataset_and_is_swept(
    store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    store.put("pets", {"train": make_split()}, classes=CLASSES, source="once")
    with monkeypatch.context() as dying:
        dying.setattr("shared.artefacts.files.shutil.rmtree", killed)
        with pytest.raises(SystemExit):
            store.delete("pets")
    assert (store.has("pets"), store.names()) == (False, [])
    assert list(tmp_path.rglob("*.safetensors")) != []
    store.sweep()
    assert list((tmp_path / "datasets").iterdir()) == []
    assert store.put("pets", {"train": make_split(6)}, classes=CLASSES, source="anew") == store.get("pets")
