"""Makes views of images in integer arithmetic; `shared.distillation.views` makes the same on a device."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.transfer_set.views.parameters import TONE_ONE, ViewParameters

WEIGHT_BITS: Final = 11
"""Of a weight of interpolation: weights are in 1/2048."""
WEIGHT_ONE: Final = 1 << WEIGHT_BITS
TONE_BITS: Final = TONE_ONE.bit_length() - 1
"""Factors of brightness and contrast are in 1/256."""
_PIXELS_AT_ONCE: Final = 1 << 20
"""Numbers of which intermediate results are kept at a time: about 20 MiB of them."""


def apply_views(images: NDArray[np.uint8], parameters: ViewParameters) -> NDArray[np.uint8]:
    """Return a view of each image: cropped and resized, mirrored, shifted, toned, and partly blackened.

    Args:
        images: uint8, N x H x W x C.
        parameters: of N views.

    Returns:
        uint8, N x H x W x C; the images themselves where nothing changes.

    Raises:
        ValueError: not as many parameters as images, or a crop that is not inside them.
    """
    if parameters.shape != (len(images),):
        raise ValueError(f"{len(images)} images and parameters of {parameters.shape} views")
    size = images.shape[1], images.shape[2]
    as_is = ViewParameters.as_is((1,), size).columns()
    done = {name for name, column in parameters.columns().items() if (column != as_is[name]).any()}
    if not done:
        return images
    parameters.check(size)
    views = np.empty_like(images)
    at_once = max(1, _PIXELS_AT_ONCE // max(1, images[:1].size))
    for begin in range(0, len(images), at_once):
        part = slice(begin, begin + at_once)
        seen, how = images[part], parameters[part]
        if "crop" in done:
            seen = _crop(seen, how.crop)
        seen = apply_view(seen, how.shift, how.flip)
        if "tone" in done:
            seen = _tone(seen, how.tone)
        views[part] = seen
        if "cutout" in done:
            _cut_out(views[part], how.cutout)
    return views


def apply_view(
    images: NDArray[np.uint8], shifts: NDArray[np.int8], flips: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return a view of the images: first mirrored where `flips` is 1, then shifted.

    Args:
        images: uint8, N x H x W x C.
        shifts: pixels down and to the right, N x 2.
        flips: 1 or 0, N.
    """
    return apply_shifts(apply_flips(images, flips), shifts)


def apply_flips(images: NDArray[np.uint8], flips: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the images, those mirrored left to right where `flips` (N) is 1."""
    mirrored = flips != 0
    if not mirrored.any():
        return images
    flipped = images.copy()
    flipped[mirrored] = images[mirrored, :, ::-1]
    return flipped


def apply_shifts(images: NDArray[np.uint8], shifts: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return the images shifted, with zeros where nothing was.

    Args:
        images: uint8, N x H x W x C.
        shifts: pixels down and to the right, N x 2; negative ones go up and to the left.
    """
    reach = int(np.abs(shifts.astype(np.int64)).max(initial=0))
    if reach == 0:
        return images
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    # windows[n, y, x] is the image-sized piece of padded image n that begins at y, x: a view, not a copy.
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    begin = reach - shifts.astype(np.int64)
    shifted = windows[np.arange(len(images)), begin[:, 0], begin[:, 1]]  # N x C x H x W
    return np.ascontiguousarray(np.moveaxis(shifted, 1, 3))


def _crop(images: NDArray[np.uint8], crops: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Resize crops (N x 4) to the whole, bilinearly; rounded once, halves up."""
    of_image = np.arange(len(images))
    above, below, share = _samples(crops[:, 0], crops[:, 2], images.shape[1])
    share = share[:, :, np.newaxis, np.newaxis]
    rows = images[of_image[:, np.newaxis], above] * (WEIGHT_ONE - share)
    rows += images[of_image[:, np.newaxis], below] * share
    left, right, share = _samples(crops[:, 1], crops[:, 3], images.shape[2])
    share = share[:, np.newaxis, :, np.newaxis]
    line = of_image[:, np.newaxis, np.newaxis], np.arange(images.shape[1])[:, np.newaxis]
    pixels = rows[(*line, left[:, np.newaxis])] * (WEIGHT_ONE - share)
    pixels += rows[(*line, right[:, np.newaxis])] * share
    return ((pixels + (1 << (2 * WEIGHT_BITS - 1))) >> (2 * WEIGHT_BITS)).astype(np.uint8)


def _samples(
    begin: NDArray[np.int16], length: NDArray[np.int16], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Return between which two pixels each of `size` new ones lies, and the share of the second; N x size.

    Pixel i is centred at i + 1/2, in the image as in the crop; before the first centre and after the last
    the crop goes on as it ends.
    """
    begins, lengths = (numbers.astype(np.int64)[:, np.newaxis] for numbers in (begin, length))
    twice_centre = 2 * np.arange(size, dtype=np.int64) + 1
    place = twice_centre * lengths * (WEIGHT_ONE // 2) // size - WEIGHT_ONE // 2
    place = np.clip(place, 0, (lengths - 1) * WEIGHT_ONE)
    first = place >> WEIGHT_BITS
    second = np.minimum(first + 1, lengths - 1)
    return begins + first, begins + second, (place & (WEIGHT_ONE - 1)).astype(np.int32)


def _tone(images: NDArray[np.uint8], tones: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Multiply pixels by the brightness, then their distance to the image's mean by the contrast."""
    brightness, contrast = tones.astype(np.int32).T[:, :, np.newaxis]
    half = TONE_ONE // 2
    pixels = images.reshape(len(images), -1)
    bright = np.clip((pixels * brightness + half) >> TONE_BITS, 0, 255)
    numbers = pixels.shape[1]
    mean = ((bright.sum(axis=1, dtype=np.int64) + numbers // 2) // numbers).astype(np.int32)[:, np.newaxis]
    seen = np.clip((bright * contrast + mean * (TONE_ONE - contrast) + half) >> TONE_BITS, 0, 255)
    toned: NDArray[np.uint8] = seen.astype(np.uint8).reshape(images.shape)
    return toned


def _cut_out(images: NDArray[np.uint8], cutouts: NDArray[np.int16]) -> None:
    """Blacken a rectangle of each image, in place."""
    top, left, height, width = cutouts.astype(np.int64).T
    rows = _within(top, height, images.shape[1])
    columns = _within(left, width, images.shape[2])
    images[rows[:, :, np.newaxis] & columns[:, np.newaxis]] = 0


def _within(begin: NDArray[np.int64], length: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    place = np.arange(size)
    return (place >= begin[:, np.newaxis]) & (place < (begin + length)[:, np.newaxis])
