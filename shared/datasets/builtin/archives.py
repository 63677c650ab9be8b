"""What built-in datasets read from archives: members one by one, pictures straight into their place.

The archives are those that the data directory's maintainer put there. They are trusted as far as their size
goes; that they are whole is checked all the same.
"""

import lzma
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.datasets import Split
from shared.contracts.images import ImageInput
from shared.datasets.images import ImageLimits, decode_image, to_input
from shared.errors import ImageTooLarge, InvalidDataset, InvalidImage

REMEDY = "Put the archive into the data directory again: its README names its digest."
_LIMITS = ImageLimits(size_bytes=1 << 20, pixels=1 << 20)


def broken(file: Path, reason: str) -> InvalidDataset:
    """Return the error for a file that is not what it should be."""
    return InvalidDataset(f"{file.name}: {reason}", remedy=REMEDY)


def tar_members(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file in a tar.xz, in order; nothing is written to disk.

    Raises:
        InvalidDataset: the archive is cut short or damaged.
    """
    try:
        # As a stream: an xz file can only be read from its beginning on, and each member but once.
        with tarfile.open(file, "r|xz") as archive:
            for member in archive:
                # It would keep a description of each: 60 MB for 110,000 files.
                archive.members.clear()  # type: ignore[attr-defined]
                if member.isfile():
                    opened = archive.extractfile(member)
                    assert opened is not None, "it is a file"
                    yield member.name, opened.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise broken(file, "it is cut short or damaged, or no tar.xz") from error


def picture(
    data: bytes, size: ImageInput, *, archive: Path, member: str, side: int | None = None
) -> NDArray[np.uint8]:
    """Return a picture of an archive as height x width x channels.

    Args:
        data: PNG or JPEG.
        size: as it is wanted.
        archive: named by errors.
        member: named by errors.
        side: height and width as it is stored; None where it is stored as it is wanted.

    Raises:
        InvalidDataset: it cannot be decoded, or is stored in another size.
    """
    try:
        image = decode_image(data, _LIMITS, file=member)
    except (InvalidImage, ImageTooLarge) as error:
        raise broken(archive, str(error)) from error
    stored = (side or size.width, side or size.height)
    if image.size != stored:
        raise broken(
            archive, f"{member} is {image.width} x {image.height} pixels, not {stored[0]} x {stored[1]}"
        )
    return to_input(image, size)


@dataclass
class Places:
    """The pictures of one split, in memory that was asked for once; each place is filled exactly once.

    Attributes:
        archive: named by errors.
        split: named by errors.
        shape: N, height, width, channels.
    """

    archive: Path
    split: str
    shape: tuple[int, int, int, int]
    images: NDArray[np.uint8] = field(init=False)
    labels: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.images = np.empty(self.shape, np.uint8)
        self.labels = np.full(self.shape[0], -1, np.int64)
        self._filled = np.zeros(self.shape[0], np.bool_)

    def put(self, place: int, image: NDArray[np.uint8], label: int, *, member: str) -> None:
        """Put a picture in its place.

        Raises:
            InvalidDataset: there is no such place, or another picture is there.
        """
        if not 0 <= place < len(self.images) or self._filled[place]:
            raise broken(self.archive, f"{member} is one picture too many for {self.split}")
        self.images[place] = image
        self.labels[place] = label
        self._filled[place] = True

    def whole(self) -> Split:
        """Return the split.

        Raises:
            InvalidDataset: pictures are missing.
        """
        if not self._filled.all():
            counts = f"{int(self._filled.sum()):,} of {len(self._filled):,}"
            raise broken(self.archive, f"it holds {counts} pictures of {self.split}")
        return Split(self.images, self.labels)
