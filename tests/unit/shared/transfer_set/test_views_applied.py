"""The pixels of a view: each change by hand, their order, and all of them at once pixel by pixel."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.transfer_set.views import ViewParameters, apply_view, apply_views, applying
from tests.support.views import random_views


def how(images: np.ndarray, **columns: Any) -> ViewParameters:
    """Return parameters of these images; those given are of every image, or one for all."""
    parameters = ViewParameters.as_is((len(images),), images.shape[1:3])
    for name, value in columns.items():
        getattr(parameters, name)[...] = value
    return parameters


def by_hand(image: np.ndarray, one: ViewParameters) -> np.ndarray:
    """Make a view pixel by pixel, in plain integers, as the page on the format says."""
    height, width, channels = image.shape
    top, left, *length = one.crop.tolist()
    cropped = image[top : top + length[0], left : left + length[1]].tolist()

    def between(place: int, side: int, sides: int) -> tuple[int, int, int]:
        at = (2 * place + 1) * side * 1024 // sides - 1024
        at = min(max(at, 0), (side - 1) * 2048)
        return at // 2048, min(at // 2048 + 1, side - 1), at % 2048

    resized = np.zeros((height, width, channels), np.int64)
    for y in range(height):
        for x in range(width):
            above, below, v = between(y, length[0], height)
            before, after, h = between(x, length[1], width)
            for c in range(channels):
                upper = cropped[above][before][c] * (2048 - h) + cropped[above][after][c] * h
                lower = cropped[below][before][c] * (2048 - h) + cropped[below][after][c] * h
                resized[y, x, c] = (upper * (2048 - v) + lower * v + 2**21) // 2**22
    if one.flip:
        resized = resized[:, ::-1]
    down, right = one.shift.tolist()
    seen = np.zeros_like(resized)
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                seen[y, x] = resized[y - down, x - right]
    brightness, contrast = one.tone.tolist()
    seen = np.clip((seen * brightness + 128) // 256, 0, 255)
    mean = (int(seen.sum()) + seen.size // 2) // seen.size
    seen = np.array(np.clip((seen * contrast + mean * (256 - contrast) + 128) // 256, 0, 255))
    top, left, *length = one.cutout.tolist()
    seen[top : top + length[0], left : left + length[1]] = 0
    return seen


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_views_are_those_made_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, channels = rng.integers(1, 8, 3)
    images = rng.integers(0, 256, (4, height, width, channels), dtype=np.uint8)
    parameters = random_views(rng, 4, (height, width))
    seen = apply_views(images, parameters)
    for number, image in enumerate(images):
        np.testing.assert_array_equal(seen[number], by_hand(image, parameters[number]))


def test_images_that_are_left_as_they_are_come_back_without_a_copy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    assert apply_views(images, how(images)) is images


def test_shifts_and_flips_alone_are_what_they_were() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (50, 9, 8, 3), dtype=np.uint8)
    shifts, flips = rng.integers(-2, 3, (50, 2), dtype=np.int8), rng.integers(0, 2, 50, dtype=np.uint8)
    seen = apply_views(images, how(images, shift=shifts, flip=flips))
    np.testing.assert_array_equal(seen, apply_view(images, shifts, flips))


def test_a_crop_is_resized_about_the_centres_of_pixels() -> None:
    image = np.array([10, 20, 200, 100], np.uint8).reshape(1, 1, 4, 1)
    seen = apply_views(image, how(image, crop=(0, 1, 1, 2)))
    # Centres of 4 pixels over 2: at 1/4, 3/4, 5/4 and 7/4, between centres at 1/2 and 3/2.
    assert seen.ravel().tolist() == [20, 20 + 180 // 4, 20 + 3 * 180 // 4, 200]


def test_halves_are_rounded_up() -> None:
    image = np.array([0, 1, 9], np.uint8).reshape(1, 1, 3, 1)
    seen = apply_views(image, how(image, crop=(0, 0, 1, 2)))
    assert seen.ravel().tolist() == [0, 1, 1]


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_a_crop_of_one_colour_keeps_it(value: int) -> None:
    images = np.full((200, 32, 32, 1), value, np.uint8)
    parameters = random_views(np.random.default_rng(2), 200, (32, 32))
    assert (apply_views(images, how(images, crop=parameters.crop)) == value).all()


def test_brightness_is_a_factor_and_ends_at_white() -> None:
    image = np.array([0, 1, 100, 200], np.uint8).reshape(1, 2, 2, 1)
    assert apply_views(image, how(image, tone=(384, 256))).ravel().tolist() == [0, 2, 150, 255]


def test_contrast_is_about_the_mean_of_the_whole_image() -> None:
    image = np.array([[90, 110], [100, 100]], np.uint8).reshape(1, 1, 2, 2)
    assert apply_views(image, how(image, tone=(256, 512))).ravel().tolist() == [80, 120, 100, 100]
    assert apply_views(image, how(image, tone=(256, 0))).ravel().tolist() == [100] * 4


def test_a_cutout_is_black_and_comes_last() -> None:
    image = np.full((1, 3, 3, 2), 100, np.uint8)
    seen = apply_views(image, how(image, cutout=(1, 0, 2, 1), tone=(512, 256), shift=(0, 1), flip=1))
    np.testing.assert_array_equal(seen[0, ..., 0], [[0, 200, 200]] * 3)
    seen = apply_views(image, how(image, cutout=(1, 1, 2, 1)))
    np.testing.assert_array_equal(seen[0, ..., 1], [[100, 100, 100], [100, 0, 100], [100, 0, 100]])
    assert (image == 100).all()


def test_a_crop_comes_before_the_mirror_and_the_mirror_before_the_shift() -> None:
    image = np.array([1, 2, 3, 4], np.uint8).reshape(1, 1, 4, 1)
    seen = apply_views(image, how(image, crop=(0, 0, 1, 1), shift=(0, 1), flip=1))
    assert seen.ravel().tolist() == [0, 1, 1, 1]
    seen = apply_views(image, how(image, shift=(0, 1), flip=1, tone=(512, 256)))
    assert seen.ravel().tolist() == [0, 8, 6, 4]


def test_many_images_are_made_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (23, 5, 5, 1), dtype=np.uint8)
    parameters = random_views(rng, 23, (5, 5))
    at_once = apply_views(images, parameters)
    sizes: list[int] = []
    crop = applying._crop

    def crop_and_count(part: np.ndarray, crops: np.ndarray) -> np.ndarray:
        sizes.append(len(part))
        return crop(part, crops)

    monkeypatch.setattr(applying, "_crop", crop_and_count)
    monkeypatch.setattr(applying, "_PIXELS_AT_ONCE", 4 * 25)
    np.testing.assert_array_equal(apply_views(images, parameters), at_once)
    assert sizes == [4, 4, 4, 4, 4, 3]


def test_parameters_that_do_not_fit_the_images_are_refused() -> None:
    images = np.zeros((3, 4, 4, 1), np.uint8)
    with pytest.raises(ValueError, match="3 images"):
        apply_views(images, how(images[:2]))
    with pytest.raises(ValueError, match="not inside"):
        apply_views(images, how(images, crop=(0, 0, 5, 4)))
