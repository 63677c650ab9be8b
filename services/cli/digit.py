"""A digit that no net has seen: one image of the dataset's test split, as a PNG.

Nothing is trained or chosen on that split, and it is read from the same public files that the dataset is
imported from, not from the stack's store.
"""

import io
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.cli.errors import CommandFailed
from shared.datasets.builtin import load_builtin
from shared.errors import DistillationError


@dataclass(frozen=True)
class HeldOutDigit:
    """An image of the test split (uint8, height x width), its number there, and what it really shows."""

    pixels: NDArray[np.uint8]
    index: int
    label: str

    def png(self) -> bytes:
        """Return the image as a PNG."""
        file = io.BytesIO()
        Image.fromarray(self.pixels).save(file, format="PNG")
        return file.getvalue()

    def drawing(self) -> str:
        """Return the image in characters, two rows of pixels to a line."""
        lit = self.pixels > 96
        rows = [
            "".join(" ▄▀█"[2 * int(top) + int(bottom)] for top, bottom in zip(upper, lower, strict=True))
            for upper, lower in zip(lit[0::2], lit[1::2], strict=True)
        ]
        return "\n".join(row for row in rows if row.strip())


def held_out_digit(dataset: str, data_dir: Path | None) -> HeldOutDigit:
    """Return a random image of a built-in dataset's test split.

    Raises:
        CommandFailed: the files of the dataset cannot be read.
    """
    try:
        splits, classes, _source = load_builtin(dataset, data_dir)
    except DistillationError as error:
        raise CommandFailed(error.code, str(error), error.remedy) from error
    test = splits["test"]
    if test.labels is None:
        raise CommandFailed("labels-missing", f"the test split of {dataset!r} has no labels")
    index = secrets.randbelow(len(test.images))
    return HeldOutDigit(
        pixels=np.ascontiguousarray(test.images[index, :, :, 0]),
        index=index,
        label=classes[int(test.labels[index])],
    )
