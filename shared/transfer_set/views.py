"""Views of an image: it is mirrored or not, then shifted a little, both drawn from a seed.

Both are stored with the teacher's answer, so that teacher and student see the same pixels.
"""

import numpy as np
from numpy.typing import NDArray

from shared.contracts.training import TransferSetSpec


def view_shifts(spec: TransferSetSpec, rows: int, view: int) -> NDArray[np.int8]:
    """Return by how many pixels each image is shifted in one view.

    Args:
        spec: how far, from which seed, and in how many views.
        rows: images in the training split, whether the transfer set takes them or not: an image has the same
            views in every part of the split.
        view: number of the view; 0 is the image as it is.

    Returns:
        Shifts (down, right) in pixels, rows x 2. They depend on seed, view and `jitter_px` alone: more views
        leave the earlier ones as they were.

    Raises:
        ValueError: the spec has no such view.
    """
    _check_view(spec, view)
    if view == 0 or spec.jitter_px == 0:
        return np.zeros((rows, 2), np.int8)
    rng = np.random.default_rng([spec.seed, view])
    return rng.integers(-spec.jitter_px, spec.jitter_px, (rows, 2), dtype=np.int8, endpoint=True)


def view_flips(spec: TransferSetSpec, rows: int, view: int) -> NDArray[np.uint8]:
    """Return which images are mirrored left to right in one view: 1 where they are, else 0; rows.

    Arguments and errors are those of `view_shifts`. Flips depend on seed and view alone.
    """
    _check_view(spec, view)
    if view == 0 or not spec.flip:
        return np.zeros(rows, np.uint8)
    return np.random.default_rng([spec.seed, view, 1]).integers(0, 2, rows, dtype=np.uint8)


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


def _check_view(spec: TransferSetSpec, view: int) -> None:
    if not 0 <= view < spec.views:
        raise ValueError(f"views are 0 to {spec.views - 1}, not {view}")
