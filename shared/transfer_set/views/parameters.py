"""What makes a view out of an image: five small groups of integers, stored with the teacher's answer.

They are all that teacher and student need to see the same pixels: no seed, no option and no draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.tensors import Array

PARAMETER_COLUMNS: Final[dict[str, tuple[np.dtype[Any], tuple[int, ...]]]] = {
    "crop": (np.dtype("<i2"), (4,)),
    "flip": (np.dtype("u1"), ()),
    "shift": (np.dtype("i1"), (2,)),
    "tone": (np.dtype("<i2"), (2,)),
    "cutout": (np.dtype("<i2"), (4,)),
}
"""Type of each parameter and its numbers a view, in the order in which they are applied."""

TONE_ONE: Final = 256
"""The factor 1 of brightness and contrast."""

Index = int | slice | EllipsisType | NDArray[Any] | tuple[int | slice | EllipsisType | NDArray[Any], ...]


@dataclass(frozen=True, eq=False)
class ViewParameters:
    """Of how one view each of some images is made; all arrays share their leading axes.

    Attributes:
        crop: top, left, height and width of the part that is resized to the whole; the whole where none is.
        flip: 1 where the image is mirrored left to right, else 0.
        shift: pixels down and to the right.
        tone: factors of brightness and contrast in 1/256; 256 leaves it as it is.
        cutout: top, left, height and width of what is black, inside the image; all 0 where nothing is.
    """

    crop: NDArray[np.int16]
    flip: NDArray[np.uint8]
    shift: NDArray[np.int8]
    tone: NDArray[np.int16]
    cutout: NDArray[np.int16]

    def __post_init__(self) -> None:
        for name, (dtype, numbers) in PARAMETER_COLUMNS.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != (*self.shape, *numbers):
                raise ValueError(
                    f"{name} of {len(self.shape)} leading axes {self.shape} must be {dtype}, "
                    f"{(*self.shape, *numbers)}; got {array.dtype}, {array.shape}"
                )

    @classmethod
    def as_is(cls, shape: tuple[int, ...], size: tuple[int, int]) -> "ViewParameters":
        """Return the parameters of images of this size (height, width) that are left as they are."""
        zeros = {name: np.zeros((*shape, *n), dtype) for name, (dtype, n) in PARAMETER_COLUMNS.items()}
        zeros["crop"][...] = (0, 0, *size)
        zeros["tone"][...] = TONE_ONE
        return cls(**zeros)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array]) -> "ViewParameters":
        """Return the parameters out of a shard's columns; what else is in there is left alone.

        Raises:
            KeyError: a parameter is missing.
            ValueError: one is of another type or shape.
        """
        return cls(**{name: columns[name] for name in PARAMETER_COLUMNS})

    @classmethod
    def concatenate(cls, parts: Sequence["ViewParameters"]) -> "ViewParameters":
        """Return the parameters of several groups of images, one after another."""
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in PARAMETER_COLUMNS})

    @classmethod
    def stack(cls, parts: Sequence["ViewParameters"]) -> "ViewParameters":
        """Return the parameters of several views of the same images, views first."""
        return cls(**{name: np.stack([getattr(p, name) for p in parts]) for name in PARAMETER_COLUMNS})

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading axes."""
        return self.flip.shape

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, index: Index) -> "ViewParameters":
        """Return those at an index of the leading axes."""
        return ViewParameters(**{name: np.asarray(array[index]) for name, array in self.columns().items()})

    def take(self, places: NDArray[np.int64]) -> "ViewParameters":
        """Return those at these places of the first axis."""
        return self[places]

    def reshape(self, *shape: int) -> "ViewParameters":
        """Return the same with other leading axes; one may be -1."""
        flip = self.flip.reshape(shape)
        return ViewParameters(
            **{
                name: array.reshape(*flip.shape, *PARAMETER_COLUMNS[name][1])
                for name, array in self.columns().items()
            }
        )

    def columns(self) -> dict[str, Array]:
        """Return the arrays by the names under which they are stored."""
        return {name: getattr(self, name) for name in PARAMETER_COLUMNS}

    def keys(self) -> NDArray[np.uint8]:
        """Return all that changes pixels, little-endian bytes: n x 23, the leading axes made one."""
        rows = self.flip.size
        parts = [
            np.ascontiguousarray(array, PARAMETER_COLUMNS[name][0]).reshape(rows, -1).view(np.uint8)
            for name, array in self.columns().items()
        ]
        return np.concatenate(parts, axis=1)

    def check(self, size: tuple[int, int]) -> None:
        """See that every crop is inside an image of this size (height, width).

        Raises:
            ValueError: one is not.
        """
        begin, length = self.crop[..., :2].astype(np.int64), self.crop[..., 2:].astype(np.int64)
        outside = (begin < 0) | (length < 1) | (begin + length > np.array(size))
        if outside.any():
            first = self.crop[outside.any(axis=-1)][0].tolist()
            raise ValueError(f"crop {first} (top, left, height, width) is not inside an image of {size}")
