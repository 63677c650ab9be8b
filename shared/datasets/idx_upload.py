"""Puts idx files together: which are images and which labels, and of which split."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.artefacts.datasets import Split
from shared.contracts.images import ImageInput
from shared.datasets.assemble import LARGEST_SIDE, Size, check_classes, check_decoded_bytes, class_order
from shared.datasets.idx import read_idx
from shared.datasets.images import to_input
from shared.datasets.limits import UploadLimits
from shared.errors import InvalidDataset

Pixels = NDArray[np.uint8]

_TEST = re.compile(r"t10k|test")
_VALIDATION = re.compile(r"valid|(^|[^a-z])val([^a-z]|$)")


def read_idx_files(
    files: Sequence[tuple[Path, str]], limits: UploadLimits, *, size: Size | None = None
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Return the splits of some idx files, none drawn anew, and their classes: the numbers that occur.

    Args:
        files: paths, and the names they were sent under. `t10k` or `test` in a name makes it the test split,
            `valid` or `val` the validation split, anything else training; one split alone is training. Three
            or four dimensions are images (N x H x W, or N x H x W x C), one is labels.
        limits: of rows and bytes.
        size: to which all images are resized.

    Raises:
        InvalidDataset: a file is broken, a split lacks images or has them twice, numbers of images and labels
            differ, or there is one class only.
    """
    images: dict[str, tuple[Pixels, str]] = {}
    labels: dict[str, tuple[Pixels, str]] = {}
    left = limits.unpacked_bytes
    for path, name in files:
        array = read_idx(path, file=name, most_bytes=left)
        left -= array.nbytes
        kind = labels if array.ndim == 1 else images
        split = _split_of(name)
        if split in kind:
            what = "labels" if kind is labels else "images"
            raise InvalidDataset(f"{name} and {kind[split][1]} are both {what} of the {split} split")
        kind[split] = (_as_images(array, name, size) if kind is images else array, name)
    if lonely := labels.keys() - images.keys():
        raise InvalidDataset(f"{labels[min(lonely)][1]} has labels for images that were not sent")
    if sum(len(pixels) for pixels, _ in images.values()) > limits.members:
        raise InvalidDataset(f"there are more than {limits.members:,} images")
    numbers = sorted({int(number) for digits, _ in labels.values() for number in np.unique(digits)})
    classes = class_order(map(str, numbers))
    check_classes(classes)
    splits = {}
    for split, (pixels, name) in images.items():
        check_decoded_bytes(pixels.shape, limits)
        indices = None
        if split in labels:
            digits, labels_name = labels[split]
            if len(digits) != len(pixels):
                raise InvalidDataset(
                    f"{name} has {len(pixels):,} images, {labels_name} {len(digits):,} labels"
                )
            indices = np.searchsorted(numbers, digits).astype(np.int64)
        splits[split] = Split(pixels, indices)
    if len(splits) == 1:
        splits = {"train": splits.popitem()[1]}  # a test split alone is all there is to divide
    return splits, classes


def _split_of(name: str) -> str:
    lower = name.lower()
    if _TEST.search(lower):
        return "test"
    return "validation" if _VALIDATION.search(lower) else "train"


def _as_images(array: Pixels, name: str, size: Size | None) -> NDArray[np.uint8]:
    images = array[..., np.newaxis] if array.ndim == 3 else array
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise InvalidDataset(f"{name} holds neither images (N x H x W) nor labels (N): {list(array.shape)}")
    if max(images.shape[1:3]) > LARGEST_SIDE:
        raise InvalidDataset(f"{name} has images with more than {LARGEST_SIDE} pixels a side")
    if size is None or size == images.shape[1:3]:
        return images
    target = ImageInput(height=size[0], width=size[1], channels=images.shape[3])
    squeezed = images[..., 0] if images.shape[3] == 1 else images
    return np.stack([to_input(Image.fromarray(image), target) for image in squeezed])
