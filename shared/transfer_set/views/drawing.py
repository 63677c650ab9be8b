"""Draws the parameters of views from a seed, each option from a stream of its own.

Only operations that round the same on every machine are used (no logarithm, no power but the square root), so
that a set which is begun on one machine is gone on with on another.
"""

import math

import numpy as np
from numpy.typing import NDArray

from shared.contracts.training import TransferSetSpec
from shared.transfer_set.views.parameters import TONE_ONE, ViewParameters

NARROWEST = 3 / 4
"""Least ratio of a crop's sides, in units of the image's own; the greatest is its inverse."""


def view_parameters(spec: TransferSetSpec, images: int, view: int, size: tuple[int, int]) -> ViewParameters:
    """Return how one view of every image is made.

    Args:
        spec: which changes are drawn, how far they go, from which seed, and in how many views.
        images: in the training split, whether the transfer set takes them or not: an image has the same
            views in every part of the split.
        view: number of the view; 0 is the image as it is.
        size: of the images, height and width.

    Returns:
        Parameters of `images` views. Each depends on seed, view, the size, and its own option alone: more
        views leave the earlier ones as they were, and so does another option that is turned on.

    Raises:
        ValueError: the spec has no such view.
    """
    if not 0 <= view < spec.views:
        raise ValueError(f"views are 0 to {spec.views - 1}, not {view}")
    as_is = ViewParameters.as_is((images,), size)
    if view == 0:
        return as_is
    return ViewParameters(
        crop=as_is.crop if spec.crop_scale is None else _crops(spec, images, view, size),
        flip=_flips(spec, images, view) if spec.flip else as_is.flip,
        shift=_shifts(spec, images, view) if spec.jitter_px else as_is.shift,
        tone=_tones(spec, images, view),
        cutout=_cutouts(spec, images, view, size) if spec.cutout_px else as_is.cutout,
    )


def _shifts(spec: TransferSetSpec, images: int, view: int) -> NDArray[np.int8]:
    rng = np.random.default_rng([spec.seed, view])
    return rng.integers(-spec.jitter_px, spec.jitter_px, (images, 2), dtype=np.int8, endpoint=True)


def _flips(spec: TransferSetSpec, images: int, view: int) -> NDArray[np.uint8]:
    return _rng(spec, view, 1).integers(0, 2, images, dtype=np.uint8)


def _crops(spec: TransferSetSpec, images: int, view: int, size: tuple[int, int]) -> NDArray[np.int16]:
    """Draw the area evenly, then the ratio of sides among those at which such an area fits."""
    assert spec.crop_scale is not None
    rng = _rng(spec, view, 2)
    area = spec.crop_scale + (1 - spec.crop_scale) * rng.random(images)
    narrowest = np.maximum(NARROWEST, area)
    ratio = narrowest + (1 - narrowest) * rng.random(images)
    upright = rng.integers(0, 2, images, dtype=np.uint8) != 0
    one, other = np.sqrt(area * ratio), np.sqrt(area / ratio)
    sides = np.stack([np.where(upright, other, one), np.where(upright, one, other)], axis=1)
    # Rounded up: a crop has at least the area that was drawn.
    length = np.clip(np.ceil(sides * size), 1, size).astype(np.int64)
    begin = rng.integers(0, np.array(size) - length, endpoint=True)
    return np.concatenate([begin, length], axis=1).astype(np.int16)


def _cutouts(spec: TransferSetSpec, images: int, view: int, size: tuple[int, int]) -> NDArray[np.int16]:
    """Draw the centre among all pixels; of the square about it, what is inside the image counts."""
    centre = _rng(spec, view, 3).integers(0, size, (images, 2))
    begin = centre - spec.cutout_px // 2
    end = np.minimum(begin + spec.cutout_px, size)
    begin = np.maximum(begin, 0)
    return np.concatenate([begin, end - begin], axis=1).astype(np.int16)


def _tones(spec: TransferSetSpec, images: int, view: int) -> NDArray[np.int16]:
    factors = np.full((images, 2), TONE_ONE, np.int16)
    for place, option in enumerate((spec.brightness, spec.contrast)):
        reach = math.floor(option * TONE_ONE)
        if reach:
            rng = _rng(spec, view, 4 + place)
            factors[:, place] += rng.integers(-reach, reach, images, dtype=np.int16, endpoint=True)
    return factors


def _rng(spec: TransferSetSpec, view: int, option: int) -> np.random.Generator:
    return np.random.default_rng([spec.seed, view, option])
