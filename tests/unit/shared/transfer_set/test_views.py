"""Views: seeded shifts, and their effect on images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.training import TransferSetSpec
from shared.transfer_set.views import apply_shifts, view_shifts

SPEC = TransferSetSpec(views=4, jitter_px=2, seed=7)


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


@pytest.mark.parametrize("view", [-1, 4])
def test_views_beyond_the_spec_are_refused(view: int) -> None:
    with pytest.raises(ValueError, match="0 to 3"):
        view_shifts(SPEC, 5, view)


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
