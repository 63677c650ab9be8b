"""The store of datasets: `datasets/<name>/{manifest.json, <split>.safetensors}`, never changed once there."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.artefacts.files import (
    canonical_json,
    digest_of,
    publish_directory,
    remove_directory,
    sweep_temporaries,
    write_atomic,
)
from shared.artefacts.names import is_name
from shared.artefacts.tensors import Array, read_tensors, write_tensors
from shared.contracts.datasets import DATASET_FORMAT, DatasetManifest, SplitCounts
from shared.contracts.images import ImageInput
from shared.contracts.kept import Frozen
from shared.errors import Corrupt, DatasetExists, DatasetNotFound, InvalidDataset

SPLITS: Final = ("train", "validation", "test")
NO_LABEL: Final = -1
"""In place of a class, for training images among labelled ones."""


@dataclass(frozen=True)
class Split:
    """One split: images, uint8 N x H x W x C, and labels, int64 N, where there are any.

    Labels are class indices; of a training split some may be -1: images that nobody labelled.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.images)


class DatasetStore:
    """Datasets by name. A name keeps its content for ever: what differs needs another name."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(
        self,
        name: str,
        splits: Mapping[str, Split],
        *,
        classes: tuple[str, ...],
        source: str,
        frozen: Frozen | None = None,
    ) -> DatasetManifest:
        """Store a dataset under a name, with the mean and deviation of its training pixels.

        Args:
            name: what users call it.
            splits: `train` and, where there are any, `validation` and `test`.
            classes: names in the order of the labels; none where nothing is labelled.
            source: where the images come from, in words.
            frozen: which kept images are in it, where some are.

        Returns:
            The manifest; of the dataset already there if its content is the same.

        Raises:
            DatasetExists: the name belongs to other content.
            InvalidDataset: no training images, fewer than two classes, shapes or lengths that do not fit.
        """
        if not is_name(name):
            raise InvalidDataset(f"a dataset cannot be called {name!r}", remedy="Use a-z, 0-9, _ and -.")
        filled = {split: splits[split] for split in SPLITS if split in splits and len(splits[split])}
        if unknown := set(splits) - set(SPLITS):
            raise InvalidDataset(f"splits are {', '.join(SPLITS)}, not {', '.join(sorted(unknown))}")
        _check(filled, classes)
        split_digests = {split: split_digest(content) for split, content in filled.items()}
        digest = dataset_digest(classes, split_digests)
        try:
            return self._same(name, digest)
        except DatasetNotFound:
            pass
        train = filled["train"].images
        mean, std = pixel_statistics(train)
        manifest = DatasetManifest(
            digest=digest,
            split_digests=split_digests,
            classes=classes,
            input=ImageInput(height=train.shape[1], width=train.shape[2], channels=train.shape[3]),
            counts=SplitCounts(**{split: len(filled.get(split, ())) for split in SPLITS}),
            labelled=filled["train"].labels is not None,
            unlabelled=_without_label(filled["train"].labels),
            pixel_mean=mean,
            pixel_std=std,
            source=source,
            frozen=frozen,
            created_at=datetime.now(UTC),
        )

        def build(directory: Path) -> None:
            for split, content in filled.items():
                tensors: dict[str, Array] = {"images": content.images}
                if content.labels is not None:
                    tensors["labels"] = content.labels
                write_tensors(directory / f"{split}.safetensors", tensors)
            write_atomic(directory / "manifest.json", manifest.model_dump_json(indent=2).encode())

        if publish_directory(self._root / name, build):
            return manifest
        return self._same(name, digest)

    def get(self, name: str) -> DatasetManifest:
        """Return the manifest of a dataset.

        Raises:
            DatasetNotFound: there is none of this name.
            Corrupt: the manifest is not what its digest says.
        """
        if not is_name(name):
            raise DatasetNotFound(name)
        path = self._root / name / "manifest.json"
        try:
            manifest = DatasetManifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise DatasetNotFound(name) from None
        except ValidationError as error:
            raise Corrupt(str(path)) from error
        if manifest.digest != dataset_digest(manifest.classes, manifest.split_digests):
            raise Corrupt(str(path))
        return manifest

    def names(self) -> list[str]:
        """Return the names of all datasets, sorted."""
        if not self._root.is_dir():
            return []
        return sorted(path.name for path in self._root.iterdir() if is_name(path.name) and path.is_dir())

    def has(self, name: str) -> bool:
        """Tell whether something bears this name, whole or damaged."""
        return is_name(name) and (self._root / name).is_dir()

    def delete(self, name: str) -> None:
        """Remove a dataset, whose copies of images are to be nowhere any more; jobs that name it will fail.

        A reader sees it whole or not at all. What a process leaves that dies in this, `sweep` removes.

        Raises:
            DatasetNotFound: there is none of this name.
        """
        self.get(name)
        if not remove_directory(self._root / name):
            raise DatasetNotFound(name)

    def sweep(self) -> None:
        """Remove what killed processes have left of datasets that they stored or deleted."""
        if self._root.is_dir():
            sweep_temporaries(self._root)

    def load(self, name: str, split: str) -> Split:
        """Return a split as views on its file; of no length where the dataset has no such images.

        The content is compared with its digest, which reads the file once.

        Raises:
            DatasetNotFound: there is no dataset of this name.
            Corrupt: the file is missing, or not what the manifest says.
        """
        manifest = self.get(name)
        path = self._root / name / f"{split}.safetensors"
        if split not in SPLITS:
            raise ValueError(f"splits are {', '.join(SPLITS)}, not {split}")
        if not getattr(manifest.counts, split):
            size = manifest.input
            empty = np.zeros((0, size.height, size.width, size.channels), np.uint8)
            return Split(empty, np.zeros(0, np.int64) if manifest.classes else None)
        try:
            tensors, _ = read_tensors(path)
        except FileNotFoundError as error:
            raise Corrupt(str(path)) from error
        if "images" not in tensors:
            raise Corrupt(str(path))
        content = Split(tensors["images"], tensors.get("labels"))
        if split_digest(content) != manifest.split_digests.get(split):
            raise Corrupt(str(path))
        return content

    def _same(self, name: str, digest: str) -> DatasetManifest:
        manifest = self.get(name)
        if manifest.digest != digest:
            raise DatasetExists(name)
        return manifest


def split_digest(split: Split) -> str:
    """Return the SHA-256 over a line of canonical JSON (dtypes, shapes), the pixels and the labels."""
    arrays: list[Array] = [split.images] if split.labels is None else [split.images, split.labels]
    digest = hashlib.sha256(
        canonical_json([[str(array.dtype), list(array.shape)] for array in arrays]) + b"\n"
    )
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def dataset_digest(classes: tuple[str, ...], split_digests: Mapping[str, str]) -> str:
    """Return the digest of a dataset: its classes in order and the digests of its splits."""
    return digest_of({"format": DATASET_FORMAT, "classes": classes, "splits": dict(split_digests)})


def pixel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, pixels on the scale 0 to 1; exact, from counts."""
    scale = np.arange(256, dtype=np.float64) / 255
    counts = np.zeros((images.shape[3], 256), np.int64)
    for begin in range(0, len(images), 1024):  # in pieces: the images may be mapped and large
        for channel in range(images.shape[3]):
            piece = images[begin : begin + 1024, ..., channel]
            counts[channel] += np.bincount(piece.ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ scale
    deviation = np.sqrt(np.maximum((shares * (scale - mean[:, None]) ** 2).sum(axis=1), 0))
    return tuple(mean.tolist()), tuple(deviation.tolist())


def _without_label(labels: NDArray[np.int64] | None) -> int:
    return 0 if labels is None else int((labels == NO_LABEL).sum())


def _check(splits: Mapping[str, Split], classes: tuple[str, ...]) -> None:
    if "train" not in splits:
        raise InvalidDataset("the dataset has no training images")
    if len(classes) == 1:
        raise InvalidDataset(
            f"the dataset has one class only ({classes[0]!r})", remedy="Give two classes or more."
        )
    if len(set(classes)) != len(classes):
        raise InvalidDataset("class names must differ from each other")
    shape = splits["train"].images.shape[1:]
    for name, split in splits.items():
        if split.images.dtype != np.uint8 or split.images.ndim != 4 or split.images.shape[3] not in (1, 3):
            raise InvalidDataset(
                f"{name} images must be uint8 with 1 or 3 channels (N x H x W x C), "
                f"got {split.images.dtype} {list(split.images.shape)}"
            )
        if split.images.shape[1:] != shape:
            raise InvalidDataset(f"{name} images are {list(split.images.shape[1:])}, train's {list(shape)}")
        if split.labels is None:
            if name != "train":
                raise InvalidDataset(
                    f"the {name} images have no labels", remedy="Label them or leave them out."
                )
            continue
        if len(split.labels) != len(split.images):
            raise InvalidDataset(f"{name} has {len(split.images)} images but {len(split.labels)} labels")
        if split.labels.dtype != np.int64 or split.labels.ndim != 1:
            raise InvalidDataset(f"{name} labels must be int64 class indices")
        least = NO_LABEL if name == "train" else 0
        if not classes or split.labels.min() < least or split.labels.max() >= len(classes):
            raise InvalidDataset(f"{name} labels must lie in 0 to {len(classes) - 1}")
        if split.labels.max() == NO_LABEL:
            raise InvalidDataset("none of the train labels is one", remedy="Leave them out.")
    if classes and all(split.labels is None for split in splits.values()):
        raise InvalidDataset("the dataset names classes but nothing in it is labelled")
