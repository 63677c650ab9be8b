"""Draws the parameters of views from a seed, each option from a stream of its own.

Images are drawn for in blocks, each from its own place in the stream, so that any of them can be had without
drawing for all. Only operations that round the same on every machine are used (no logarithm, no power but the
square root), so that a set which is begun on one machine is gone on with on another.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.tensors import Array
from shared.contracts.training import TransferSetSpec
from shared.transfer_set.views.parameters import TONE_ONE, ViewParameters

NARROWEST = 3 / 4
"""Least ratio of a crop's sides, in units of the image's own; the greatest is its inverse."""
BLOCK: Final = 4096
"""Images that are drawn for together."""


def view_parameters(
    spec: TransferSetSpec,
    images: int,
    view: int,
    size: tuple[int, int],
    *,
    rows: NDArray[np.int64] | None = None,
) -> ViewParameters:
    """Return how one view of every image, or of some, is made.

    Args:
        spec: which changes are drawn, how far they go, from which seed, and in how many views.
        images: in the training split, whether the transfer set takes them or not: an image has the same
            views in every part of the split.
        view: number of the view; 0 is the image as it is.
        size: of the images, height and width.
        rows: which of the images; None is all.

    Returns:
        Parameters of so many views. Each depends on seed, view, the image's index, the size, and its own
        option alone: more views leave the earlier ones as they were, and so does another option that is
        turned on.

    Raises:
        ValueError: the spec has no such view, or there is no such image.
    """
    if not 0 <= view < spec.views:
        raise ValueError(f"views are 0 to {spec.views - 1}, not {view}")
    wanted = np.arange(images, dtype=np.int64) if rows is None else rows
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < images:
        raise ValueError(f"images are 0 to {images - 1}, not {wanted.min()} to {wanted.max()}")
    parameters = ViewParameters.as_is((len(wanted),), size)
    if view == 0 or not len(wanted):
        return parameters
    blocks, within = np.divmod(wanted, BLOCK)
    order = np.argsort(blocks, kind="stable")
    present, begins = np.unique(blocks[order], return_index=True)
    columns = parameters.columns()
    for block, places in zip(present, np.split(order, begins[1:]), strict=True):
        for name, drawn in _block(spec, view, int(block), size).items():
            columns[name][places] = drawn[within[places]]
    return parameters


def _block(spec: TransferSetSpec, view: int, block: int, size: tuple[int, int]) -> dict[str, Array]:
    """Return the parameters of the options that are on, for all images of a block."""

    def rng(option: int) -> np.random.Generator:
        return np.random.default_rng([spec.seed, view, option, block])

    drawn: dict[str, Array] = {}
    if spec.jitter_px:
        reach = spec.jitter_px
        drawn["shift"] = rng(0).integers(-reach, reach, (BLOCK, 2), dtype=np.int8, endpoint=True)
    if spec.flip:
        drawn["flip"] = rng(1).integers(0, 2, BLOCK, dtype=np.uint8)
    if spec.crop_scale is not None:
        drawn["crop"] = _crops(rng(2), spec.crop_scale, size)
    if spec.cutout_px:
        drawn["cutout"] = _cutouts(rng(3), spec.cutout_px, size)
    tones = _factors(rng(4), spec.brightness), _factors(rng(5), spec.contrast)
    return {**drawn, "tone": np.stack(tones, axis=1)}


def _crops(rng: np.random.Generator, scale: float, size: tuple[int, int]) -> NDArray[np.int16]:
    """Draw the area evenly, then the ratio of sides among those at which such an area fits."""
    area = scale + (1 - scale) * rng.random(BLOCK)
    narrowest = np.maximum(NARROWEST, area)
    ratio = narrowest + (1 - narrowest) * rng.random(BLOCK)
    upright = rng.integers(0, 2, BLOCK, dtype=np.uint8) != 0
    one, other = np.sqrt(area * ratio), np.sqrt(area / ratio)
    sides = np.stack([np.where(upright, other, one), np.where(upright, one, other)], axis=1)
    # Rounded up: a crop has at least the area that was drawn.
    length = np.clip(np.ceil(sides * size), 1, size).astype(np.int64)
    begin = rng.integers(0, np.array(size) - length, endpoint=True)
    return np.concatenate([begin, length], axis=1).astype(np.int16)


def _cutouts(rng: np.random.Generator, side: int, size: tuple[int, int]) -> NDArray[np.int16]:
    """Draw the centre among all pixels; of the square about it, what is inside the image counts."""
    centre = rng.integers(0, size, (BLOCK, 2))
    begin = centre - side // 2
    end = np.minimum(begin + side, size)
    begin = np.maximum(begin, 0)
    return np.concatenate([begin, end - begin], axis=1).astype(np.int16)


def _factors(rng: np.random.Generator, option: float) -> NDArray[np.int16]:
    """Draw factors about 1, in 1/256."""
    reach = math.floor(option * TONE_ONE)
    return TONE_ONE + rng.integers(-reach, reach, BLOCK, dtype=np.int16, endpoint=True)
