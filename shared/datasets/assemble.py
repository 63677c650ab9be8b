"""Puts single encoded images together into the splits of a dataset."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.artefacts.datasets import Split
from shared.contracts.images import ImageInput
from shared.datasets.images import decode_image, is_coloured, to_input
from shared.datasets.limits import UploadLimits
from shared.errors import InvalidDataset

Size = tuple[int, int]
"""Height and width in pixels."""

LARGEST_SIDE = 4096
SAME_SIZE = "Resize the images, or ask for a size in the upload."


@dataclass(frozen=True)
class Example:
    """One encoded image: its split, the name of its class if it has one, and the name that errors mention."""

    split: str
    label: str | None
    data: bytes
    file: str


def assemble(
    examples: Iterable[Example],
    limits: UploadLimits,
    *,
    size: Size | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Decode examples, one at a time, and return them as splits with their classes.

    Args:
        examples: of all splits; the order within a split is kept.
        limits: of each image, and of all pixels together.
        size: to which all images are resized; without it all must have the size of the first.
        classes: names in order, where the upload states them; else see `class_order`.

    Returns:
        The splits that came, none drawn anew, all with 3 channels if any image is stored in colour and else
        with 1; and the classes, which are none where nothing is labelled.

    Raises:
        InvalidImage: an image cannot be decoded; the error names its file.
        ImageTooLarge: an image is over a limit; the error names its file.
        InvalidDataset: no images, sizes that differ, one class only, labels for some images of a split.
    """
    pixels: dict[str, list[NDArray[np.uint8]]] = {}
    labels: dict[str, list[str | None]] = {}
    common = _CommonSize(size)
    coloured = False
    count = 0
    for example in examples:
        image = decode_image(example.data, limits.images, file=example.file)
        height, width = common.fit(image, example.file)
        in_colour = is_coloured(image)
        coloured = coloured or in_colour
        count += 1
        check_decoded_bytes((count, height, width, 3 if coloured else 1), limits)
        # Grey stays one channel until it is known that all need three.
        target = ImageInput(height=height, width=width, channels=3 if in_colour else 1)
        pixels.setdefault(example.split, []).append(to_input(image, target))
        labels.setdefault(example.split, []).append(example.label)
    if not count:
        raise InvalidDataset("the upload has no images")
    names = {label for split in labels.values() for label in split if label is not None}
    ordered = tuple(classes) if classes is not None and names else class_order(names)
    check_classes(ordered)
    index = {name: i for i, name in enumerate(ordered)}
    splits = {
        split: Split(_stack(pixels.pop(split), 3 if coloured else 1), _indices(split, labels[split], index))
        for split in labels
    }
    return splits, ordered


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in their order: by value if all are whole numbers, else by code point."""
    names = list(names)
    if all(name.isascii() and name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def check_classes(classes: Sequence[str]) -> None:
    """Refuse a dataset whose classes cannot be told apart.

    Raises:
        InvalidDataset: there is one class only.
    """
    if len(classes) == 1:
        remedy = "Give two classes or more."
        raise InvalidDataset(f"the dataset has one class only ({classes[0]!r})", remedy=remedy)


def check_decoded_bytes(shape: tuple[int, int, int, int], limits: UploadLimits) -> None:
    """Refuse images (N, H, W, C) that together take more memory than allowed.

    Raises:
        InvalidDataset: they do.
    """
    size_bytes = shape[0] * shape[1] * shape[2] * shape[3]
    if size_bytes > limits.decoded_bytes:
        raise InvalidDataset(
            f"the images take more than {limits.decoded_bytes:,} bytes when decoded",
            remedy="Send fewer images, or ask for a smaller size in the upload.",
        )


class _CommonSize:
    """The one size of all images: as asked for, or that of the first."""

    def __init__(self, asked: Size | None) -> None:
        self._asked = asked
        self._first: tuple[Size, str] | None = None

    def fit(self, image: Image.Image, file: str) -> Size:
        if self._asked is not None:
            return self._asked
        size = (image.height, image.width)
        if max(size) > LARGEST_SIDE:
            reason = f"{file} is {image.width} x {image.height} pixels; a side may have {LARGEST_SIDE}"
            raise InvalidDataset(reason, remedy=SAME_SIZE)
        if self._first is None:
            self._first = (size, file)
        (height, width), first = self._first
        if size != (height, width):
            reason = f"{file} is {image.width} x {image.height} pixels, but {first} is {width} x {height}"
            raise InvalidDataset(reason, remedy=SAME_SIZE)
        return size


def _stack(images: list[NDArray[np.uint8]], channels: int) -> NDArray[np.uint8]:
    stacked = np.empty((len(images), *images[0].shape[:2], channels), np.uint8)
    images.reverse()  # taken from the end, so that each is free once it is copied
    for row in range(len(stacked)):
        stacked[row] = images.pop()  # one channel is repeated where three are needed
    return stacked


def _indices(split: str, labels: list[str | None], index: dict[str, int]) -> NDArray[np.int64] | None:
    found = [index[label] for label in labels if label is not None]
    if not found:
        return None
    if len(found) != len(labels):
        raise InvalidDataset(
            f"{len(labels) - len(found)} of {len(labels)} {split} images have no label",
            remedy="Label all images of a split or none.",
        )
    return np.array(found, np.int64)
