"""Parameters of views: what is drawn, what each draw depends on, and how they are kept."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.training import TransferSetSpec
from shared.transfer_set.views import (
    PARAMETER_COLUMNS,
    ViewParameters,
    view_parameters,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "crop": {"crop_scale": 0.3},
    "flip": {"flip": True},
    "shift": {"jitter_px": 3},
    "tone": {"brightness": 0.4, "contrast": 0.6},
    "cutout": {"cutout_px": 5},
}
EVERYTHING: dict[str, Any] = {name: value for option in OPTIONS.values() for name, value in option.items()}
SIZE = (9, 14)


def spec_of(**options: Any) -> TransferSetSpec:
    return TransferSetSpec.model_validate({"views": 4, "seed": 7, **options})


def drawn(images: int = 500, view: int = 1, size: tuple[int, int] = SIZE, **options: Any) -> ViewParameters:
    return view_parameters(spec_of(**options), images, view, size)


def same(one: ViewParameters, other: ViewParameters) -> dict[str, bool]:
    """Tell of each parameter whether it is the same in both."""
    theirs = other.columns()
    return {name: np.array_equal(array, theirs[name]) for name, array in one.columns().items()}


def test_view_0_is_the_image_as_it_is_whatever_is_turned_on() -> None:
    as_is = ViewParameters.as_is((500,), SIZE)
    assert all(same(drawn(view=0, **EVERYTHING), as_is).values())
    assert all(same(drawn(view=3), as_is).values())


@pytest.mark.parametrize("turned_on", list(OPTIONS))
def test_an_option_changes_its_own_parameter_alone(turned_on: str) -> None:
    with_it, without = drawn(**OPTIONS[turned_on]), drawn()
    assert [name for name, equal in same(with_it, without).items() if not equal] == [turned_on]
    others = {
        name: value for option in OPTIONS if option != turned_on for name, value in OPTIONS[option].items()
    }
    equal = same(drawn(**EVERYTHING), drawn(**others))
    assert [name for name, is_equal in equal.items() if not is_equal] == [turned_on]


def test_contrast_leaves_brightness_as_it_was() -> None:
    both, one = drawn(brightness=0.4, contrast=0.6).tone, drawn(brightness=0.4).tone
    np.testing.assert_array_equal(both[:, 0], one[:, 0])
    assert (both[:, 1] != one[:, 1]).any()


def test_every_draw_depends_on_seed_and_view_but_not_on_the_number_of_views() -> None:
    one = drawn(**EVERYTHING)
    assert all(same(one, drawn(**EVERYTHING, views=9)).values())
    assert not any(same(one, drawn(**EVERYTHING, seed=8)).values())
    assert not any(same(one, drawn(**EVERYTHING, view=2)).values())


def test_shifts_and_flips_are_those_of_earlier_versions() -> None:
    now = drawn(**EVERYTHING)
    rng = np.random.default_rng([7, 1])
    np.testing.assert_array_equal(now.shift, rng.integers(-3, 3, (500, 2), dtype=np.int8, endpoint=True))
    rng = np.random.default_rng([7, 1, 1])
    np.testing.assert_array_equal(now.flip, rng.integers(0, 2, 500, dtype=np.uint8))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 1), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_crops_are_inside_and_have_the_share_of_the_area(
    scale: float, height: int, width: int, seed: int
) -> None:
    parameters = drawn(images=50, size=(height, width), crop_scale=scale, seed=seed)
    parameters.check((height, width))
    length = parameters.crop[:, 2:].astype(np.int64)
    assert (length.prod(axis=1) >= scale * height * width * (1 - 1e-9)).all()


def test_crops_take_all_places_areas_and_ratios() -> None:
    crop = drawn(images=5_000, size=(32, 32), crop_scale=0.25).crop.astype(np.int64)
    begin, length = crop[:, :2], crop[:, 2:]
    area, ratio = length.prod(axis=1) / 32**2, length[:, 1] / length[:, 0]
    assert area.min() < 0.3
    assert area.max() > 0.95
    # Drawn evenly from 1/4 to 1, and then rounded up to whole pixels.
    assert abs(area.mean() - 0.625) < 0.04
    assert ratio.min() < 0.78
    assert ratio.max() > 1.28
    assert abs((ratio < 1).mean() - (ratio > 1).mean()) < 0.07
    assert (begin.min(axis=0) == 0).all()
    assert ((begin + length).max(axis=0) == 32).all()


def test_a_crop_of_the_whole_area_is_the_whole_image() -> None:
    assert all(same(drawn(crop_scale=1.0), drawn()).values())


def test_cutouts_are_squares_but_where_the_image_ends() -> None:
    top, left, height, width = drawn(images=5_000, cutout_px=5).cutout.astype(np.int64).T
    inside = (top > 0) & (left > 0) & (top + height < 9) & (left + width < 14)
    assert inside.any()
    assert (height[inside] == 5).all()
    assert (width[inside] == 5).all()
    # The centre is any pixel, so that the least that is left of a square is 2 + 1 at the near edges.
    assert (height.min(), height.max(), width.min(), width.max()) == (3, 5, 3, 5)
    assert {(0, 3), (6, 3)} <= set(zip(top.tolist(), height.tolist(), strict=True))


def test_a_cutout_larger_than_the_image_leaves_nothing() -> None:
    assert (drawn(cutout_px=40).cutout == [0, 0, *SIZE]).all()


def test_tones_reach_as_far_as_they_may_in_both_directions() -> None:
    tone = drawn(images=20_000, brightness=0.4, contrast=0.999).tone
    assert tone.min(axis=0).tolist() == [256 - 102, 1]
    assert tone.max(axis=0).tolist() == [256 + 102, 511]


@pytest.mark.parametrize("view", [-1, 4])
def test_views_beyond_the_spec_are_refused(view: int) -> None:
    with pytest.raises(ValueError, match="0 to 3"):
        drawn(view=view)


def test_parameters_come_back_from_the_columns_of_a_shard() -> None:
    one = drawn(**EVERYTHING)
    columns = one.columns()
    assert list(columns) == list(PARAMETER_COLUMNS)
    for name, (dtype, numbers) in PARAMETER_COLUMNS.items():
        assert columns[name].dtype == dtype
        assert columns[name].shape == (500, *numbers)
    again = ViewParameters.from_columns({**columns, "logits": np.zeros(500, np.float16)})
    assert all(same(one, again).values())
    with pytest.raises(ValueError, match="shift of 1 leading axes"):
        ViewParameters.from_columns({**columns, "shift": columns["shift"].astype(np.int16)})
    with pytest.raises(ValueError, match="crop of 1 leading axes"):
        ViewParameters.from_columns({**columns, "crop": columns["crop"][:-1]})


def test_parts_are_taken_joined_and_reshaped_together() -> None:
    views = [drawn(images=6, view=view, **EVERYTHING) for view in range(4)]
    stacked, flat = ViewParameters.stack(views), ViewParameters.concatenate(views)
    assert stacked.shape == (4, 6)
    assert all(same(stacked.reshape(-1), flat).values())
    assert all(same(flat.reshape(4, 6), stacked).values())
    assert all(same(stacked[2], views[2]).values())
    assert all(same(stacked[:, 3], flat.take(np.array([3, 9, 15, 21]))).values())
    assert len(flat) == 24


def test_keys_tell_views_apart_that_differ_in_any_number() -> None:
    as_is = ViewParameters.as_is((2, 1), SIZE)
    (one, other) = as_is.keys()
    np.testing.assert_array_equal(one, other)
    assert one.shape == (23,)
    for name, array in as_is.columns().items():
        numbers = array.reshape(2, -1)
        for place in range(numbers.shape[1]):
            changed = {key: column.copy() for key, column in as_is.columns().items()}
            changed[name].reshape(2, -1)[1, place] += 1
            first, second = ViewParameters.from_columns(changed).keys()
            np.testing.assert_array_equal(first, one)
            assert (second != one).any()


@pytest.mark.parametrize(
    "crop", [(0, 0, 10, 14), (1, 0, 9, 14), (0, -1, 9, 14), (0, 0, 0, 14), (0, 0, 9, -1)]
)
def test_a_crop_outside_the_image_is_refused(crop: tuple[int, ...]) -> None:
    parameters = ViewParameters.as_is((3,), SIZE)
    parameters.check(SIZE)
    parameters.crop[1] = crop
    with pytest.raises(ValueError, match="not inside"):
        parameters.check(SIZE)


@pytest.mark.parametrize("view", [0, 2])
def test_any_images_are_drawn_for_without_the_others(view: int) -> None:
    """10,000 images are three blocks; the last one of a split is not full."""
    rows = np.array([9_999, 0, 4_096, 4_095, 8_191, 8_192, 4_096], np.int64)
    spec = spec_of(**EVERYTHING)
    some = view_parameters(spec, 10_000, view, (32, 32), rows=rows)
    np.testing.assert_array_equal(some.keys(), view_parameters(spec, 10_000, view, (32, 32))[rows].keys())
    assert len(view_parameters(spec, 10_000, view, (32, 32), rows=rows[:0])) == 0
    blocks = view_parameters(spec, 10_000, view, (32, 32)).shift.reshape(-1, 2)
    assert view == 0 or (blocks[:1_000] != blocks[4_096:5_096]).any()


@pytest.mark.parametrize("row", [-1, 10])
def test_an_image_that_is_not_there_has_no_views(row: int) -> None:
    with pytest.raises(ValueError, match="0 to 9"):
        view_parameters(spec_of(**EVERYTHING), 10, 1, (32, 32), rows=np.array([row], np.int64))
