"""Views that are mirrored and shifted: what is drawn, and its effect on images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.training import TransferSetSpec
from shared.transfer_set.views import apply_flips, apply_shifts, apply_view, view_parameters

SPEC = TransferSetSpec(views=4, jitter_px=2, seed=7)
FLIPPING = TransferSetSpec(views=4, jitter_px=2, flip=True, seed=7)


def view_shifts(spec: TransferSetSpec, images: int, view: int) -> np.ndarray:
    return view_parameters(spec, images, view, (28, 28)).shift


def view_flips(spec: TransferSetSpec, images: int, view: int) -> np.ndarray:
    return view_parameters(spec, images, view, (28, 28)).flip


def test_view_0_is_the_image_as_it_is() -> None:
    assert not view_shifts(SPEC, 100, 0).any()


def test_no_jitter_means_no_shift() -> None:
    assert not view_shifts(SPEC.model_copy(update={"jitter_px": 0}), 100, 3).any()


@pytest.mark.parametrize("jitter_px", [1, 2, 64])
def test_shifts_reach_as_far_as_the_jitter_in_all_directions(jitter_px: int) -> None:
    shifts = view_shifts(TransferSetSpec(views=2, jitter_px=jitter_px), 5_000, 1)
    assert shifts.dtype == np.int8
    assert (shifts.min(axis=0) == -jitter_px).all()
    assert (shifts.max(axis=0) == jitter_px).all()


def test_all_shifts_are_equally_likely() -> None:
    counts = np.bincount(view_shifts(TransferSetSpec(views=2, jitter_px=2), 25_000, 1)[:, 0].astype(int) + 2)
    assert len(counts) == 5
    assert (abs(counts - 5_000) < 5 * np.sqrt(4_000)).all()  # five standard deviations


def test_shifts_depend_on_seed_and_view_but_not_on_the_number_of_views() -> None:
    one = view_shifts(SPEC, 50, 1)
    np.testing.assert_array_equal(one, view_shifts(SPEC.model_copy(update={"views": 9}), 50, 1))
    assert (one != view_shifts(SPEC, 50, 2)).any()
    assert (one != view_shifts(SPEC.model_copy(update={"seed": 8}), 50, 1)).any()


def test_only_a_spec_that_flips_mirrors_and_never_the_first_view() -> None:
    assert not any(view_flips(SPEC, 100, view).any() for view in range(4))
    assert not view_flips(FLIPPING, 100, 0).any()


def test_half_of_the_images_are_mirrored() -> None:
    flips = view_flips(FLIPPING, 10_000, 1)
    assert flips.dtype == np.uint8
    assert set(flips.tolist()) == {0, 1}
    assert abs(int(flips.sum()) - 5_000) < 5 * 50  # five standard deviations


def test_flips_depend_on_seed_and_view_and_leave_the_shifts_as_they_were() -> None:
    assert (view_flips(FLIPPING, 50, 1) != view_flips(FLIPPING, 50, 2)).any()
    assert (view_flips(FLIPPING, 50, 1) != view_flips(FLIPPING.model_copy(update={"seed": 8}), 50, 1)).any()
    np.testing.assert_array_equal(view_shifts(FLIPPING, 50, 1), view_shifts(SPEC, 50, 1))


def test_a_flip_mirrors_left_to_right_and_keeps_channels() -> None:
    images = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    flipped = apply_flips(images, np.array([0, 1], np.uint8))
    np.testing.assert_array_equal(flipped[0], images[0])
    np.testing.assert_array_equal(flipped[1], images[1, :, [2, 1, 0]].transpose(1, 0, 2))
    np.testing.assert_array_equal(images.ravel(), np.arange(36))  # what was given is not changed


def test_an_image_is_mirrored_before_it_is_shifted() -> None:
    image = np.array([1, 2, 3], np.uint8).reshape(1, 1, 3, 1)
    seen = apply_view(image, np.array([[0, 1]], np.int8), np.array([1], np.uint8))
    assert seen.ravel().tolist() == [0, 3, 2]


def test_a_shift_moves_down_and_to_the_right_and_fills_with_zeros() -> None:
    image = np.arange(1, 7, dtype=np.uint8).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(
        apply_shifts(image, np.array([[1, 0]], np.int8))[0, ..., 0], [[0, 0, 0], [1, 2, 3]]
    )
    np.testing.assert_array_equal(
        apply_shifts(image, np.array([[0, -1]], np.int8))[0, ..., 0], [[2, 3, 0], [5, 6, 0]]
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shifted_images_are_those_moved_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, height, width, channels = rng.integers(1, 6, 4)
    images = rng.integers(0, 256, (n, height, width, channels), dtype=np.uint8)
    shifts = rng.integers(-7, 8, (n, 2), dtype=np.int8)
    expected = np.zeros_like(images)
    for i, (down, right) in enumerate(shifts.astype(int)):
        for y in range(height):
            for x in range(width):
                if 0 <= y - down < height and 0 <= x - right < width:
                    expected[i, y, x] = images[i, y - down, x - right]
    np.testing.assert_array_equal(apply_shifts(images, shifts), expected, strict=True)


def test_the_farthest_shift_of_eight_bits_leaves_nothing() -> None:
    image = np.full((1, 28, 28, 1), 255, np.uint8)
    assert not apply_shifts(image, np.array([[-128, 0]], np.int8)).any()
