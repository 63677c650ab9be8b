"""Tiny ImageNet at 32 pixels: many classes in confusable groups, for the specialists.

Its terms are those of ImageNet: research only. 322 MiB of pixels are decoded straight into their places.
"""

import re
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.datasets import Split
from shared.contracts.images import ImageInput
from shared.datasets.builtin.archives import Places, broken, picture, tar_members
from shared.datasets.builtin.table import Builtin, Files, Read, in_data_dir

SIZE: Final = ImageInput(height=32, width=32, channels=3)
_TRAIN: Final = re.compile(r"train/(n[0-9]{8})/images/(n[0-9]{8})_([0-9]+)\.JPEG")
_VAL: Final = re.compile(r"val/images/val_([0-9]+)\.JPEG")
_ANNOTATIONS: Final = "val/val_annotations.txt"
_WNIDS: Final = "wnids.txt"


class Counts(NamedTuple):
    """Classes, and pictures of each.

    The pictures of `train/` with the highest numbers are for validation; those of `val/` are the test split,
    as the labels of the real one were never published.
    """

    classes: int = 200
    train: int = 450
    validation: int = 50
    test: int = 50


REAL: Final = Counts()


def read(files: Files, counts: Counts = REAL, *, first: int | None = None) -> Read:
    """Read `tiny-imagenet-32.tar.xz`, whose members are sorted by name.

    Args:
        files: the archive.
        counts: what it holds.
        first: of the classes in sorted order, take these alone; None takes all.
    """
    (file,) = files
    taken = counts.classes if first is None else first
    pixels = (SIZE.height, SIZE.width, SIZE.channels)
    splits = {
        "train": Places(file, "train", (taken * counts.train, *pixels)),
        "validation": Places(file, "validation", (taken * counts.validation, *pixels)),
    }
    test = Places(file, "val", (counts.classes * counts.test, *pixels))
    seen: dict[str, int] = {}
    texts: dict[str, bytes] = {}
    for member, data in tar_members(file):
        if match := _TRAIN.fullmatch(member):
            label, number = seen.setdefault(match[1], len(seen)), int(match[3])
            if label >= taken:
                continue
            split, a_class = "train", counts.train
            if number >= counts.train:
                split, a_class, number = "validation", counts.validation, number - counts.train
            place = label * a_class + number if number < a_class else -1
            splits[split].put(place, picture(data, SIZE, archive=file, member=member), label, member=member)
        elif match := _VAL.fullmatch(member):
            image = picture(data, SIZE, archive=file, member=member)
            test.put(int(match[1]), image, -1, member=member)  # its label stands in the annotations
        elif member in (_ANNOTATIONS, _WNIDS):
            texts[member] = data
        else:
            raise broken(file, f"{member} does not belong here")
    wnids = tuple(sorted(texts.get(_WNIDS, b"").decode("ascii", "replace").split()))
    if len(wnids) != counts.classes or tuple(seen) != wnids:
        raise broken(
            file, f"train/ should have the {counts.classes} classes of {_WNIDS} in order, has {len(seen)}"
        )
    labels = _annotated(files, texts.get(_ANNOTATIONS, b""), seen, len(test.labels))
    if (np.bincount(labels, minlength=counts.classes) != counts.test).any():
        raise broken(file, f"{_ANNOTATIONS} should name {counts.test} pictures of each class")
    rows = np.flatnonzero(labels < taken)
    images = test.whole().images
    tested = Split(images if taken == counts.classes else images[rows], labels[rows])
    return {**{name: places.whole() for name, places in splits.items()}, "test": tested}, wnids[:taken]


def _annotated(files: Files, text: bytes, index: dict[str, int], rows: int) -> NDArray[np.int64]:
    """Return the label of each picture of `val/`: lines of file, class and box, divided by tabs."""
    labels = np.full(rows, -1, np.int64)
    for line in text.decode("ascii", "replace").splitlines():
        name, wnid = (*line.split("\t"), "", "")[:2]
        match = _VAL.fullmatch(f"val/images/{name}")
        if match is None or wnid not in index or int(match[1]) >= rows:
            raise broken(files[0], f"{_ANNOTATIONS} has a line that is not file, class, box: {line[:80]!r}")
        labels[int(match[1])] = index[wnid]
    if (labels < 0).any():
        raise broken(files[0], f"{_ANNOTATIONS} names {int((labels >= 0).sum()):,} of {rows:,} pictures")
    return labels


_FIND = in_data_dir("tiny-imagenet-32/tiny-imagenet-32.tar.xz")
ALL_CLASSES: Final = Builtin(_FIND, read)
FIRST_100_CLASSES: Final = Builtin(_FIND, partial(read, first=100))
