"""CIFAR-10 as a JPEG copy: close to the original pixels, but not the same."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from shared.contracts.images import ImageInput
from shared.datasets.builtin.archives import Places, broken, picture, tar_members
from shared.datasets.builtin.table import Builtin, Files, Read, in_data_dir

CLASSES: Final = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIZE: Final = ImageInput(height=32, width=32, channels=3)
_MEMBER: Final = re.compile(r"(train|test)/([a-z]+)/([0-9]{4})\.jpg")


class Counts(NamedTuple):
    """Pictures a class. The last of the training pictures, by their number, are for validation."""

    train: int = 4_500
    validation: int = 500
    test: int = 1_000


REAL: Final = Counts()


def read(files: Files, counts: Counts = REAL) -> Read:
    """Read `cifar10-jpeg.tar.xz`: train/CLASS/NNNN.jpg and test/CLASS/NNNN.jpg."""
    (file,) = files
    index: Mapping[str, int] = {name: label for label, name in enumerate(CLASSES)}
    splits = {
        split: Places(file, split, (len(CLASSES) * a_class, SIZE.height, SIZE.width, SIZE.channels))
        for split, a_class in counts._asdict().items()
    }
    for member, data in tar_members(file):
        match = _MEMBER.fullmatch(member)
        if match is None or match[2] not in index:
            raise broken(file, f"{member} should be train/CLASS/NNNN.jpg or test/CLASS/NNNN.jpg")
        split, label, number = match[1], index[match[2]], int(match[3])
        if split == "train" and number >= counts.train:
            split, number = "validation", number - counts.train
        a_class = getattr(counts, split)
        # A number too high would otherwise fall among the next class.
        place = label * a_class + number if number < a_class else -1
        splits[split].put(place, picture(data, SIZE, archive=file, member=member), label, member=member)
    return {split: places.whole() for split, places in splits.items()}, CLASSES


CIFAR10: Final = Builtin(in_data_dir("cifar10-jpeg/cifar10-jpeg.tar.xz"), read)
