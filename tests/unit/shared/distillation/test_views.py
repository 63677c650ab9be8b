"""Views on a device: the very pixels that numpy makes, of every kind."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.distillation.views import DeviceView, ViewMaker
from shared.transfer_set.views import ViewParameters
from tests.support.views import KINDS, both_ways, random_images, random_views

CPU = torch.device("cpu")
SOME_KINDS = [kinds for n in range(len(KINDS) + 1) for kinds in itertools.combinations(KINDS, n)]


@pytest.mark.parametrize("kinds", SOME_KINDS, ids="+".join)
def test_every_mix_of_changes_is_that_of_numpy_to_the_bit(kinds: tuple[str, ...]) -> None:
    by_numpy, made = both_ways(np.random.default_rng(len(kinds)), (10, 13), 3, kinds, "cpu")
    torch.testing.assert_close(made, by_numpy, rtol=0, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 3, 4]),
    st.sampled_from(SOME_KINDS),
)
def test_views_of_any_size_are_those_of_numpy_to_the_bit(
    seed: int, size: tuple[int, int], channels: int, kinds: tuple[str, ...]
) -> None:
    by_numpy, made = both_ways(np.random.default_rng(seed), size, channels, kinds, "cpu")
    assert torch.equal(made, by_numpy)


def test_large_images_do_not_overflow() -> None:
    """White to the last pixel: the largest sums that 32 bits have to hold, and means beyond them."""
    size = (3000, 3000)
    parameters = ViewParameters.as_is((1,), size)
    parameters.crop[:] = (1, 1, 2998, 2999)
    parameters.tone[:] = (300, 511)
    maker = ViewMaker(torch.full((1, *size, 1), 255, dtype=torch.uint8), reach=0, device=CPU)
    rows = torch.zeros(1, 1, dtype=torch.long)
    assert maker.make(rows, DeviceView.of(parameters, size, CPU).at(rows)).eq(255).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_crops_are_resized_as_torch_interpolates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = random_images(rng, 6, (16, 20), 3)
    parameters = random_views(rng, 6, (16, 20), ("crop",))
    maker = ViewMaker(torch.from_numpy(images), reach=0, device=CPU)
    rows = torch.arange(6)[None]
    made = maker.make(rows, DeviceView.of(parameters, (16, 20), CPU).at(rows))[0]
    for image, view, (top, left, height, width) in zip(images, made, parameters.crop.tolist(), strict=True):
        part = torch.from_numpy(image[top : top + height, left : left + width].copy())
        whole = F.interpolate(part.movedim(-1, 0)[None].double(), (16, 20), mode="bilinear")[0].movedim(0, -1)
        # Half a level of rounding, and weights that are right to 1/2048 on either axis.
        assert (whole - view.double()).abs().max() <= 0.5 + 2 * 255 / 2048


def test_what_changes_no_pixel_is_not_done() -> None:
    parameters = ViewParameters.as_is((4,), (5, 6))
    as_it_is = DeviceView.of(parameters, (5, 6), CPU)
    assert (as_it_is.crop, as_it_is.flip, as_it_is.shift, as_it_is.tone, as_it_is.cutout) == (None,) * 5
    parameters.flip[2] = 1
    mirrored = DeviceView.of(parameters, (5, 6), CPU)
    assert mirrored.flip is not None
    assert mirrored.flip.tolist() == [False, False, True, False]
    assert (mirrored.crop, mirrored.shift, mirrored.tone, mirrored.cutout) == (None,) * 4


def test_a_crop_outside_the_images_is_refused_before_a_device_reads_it() -> None:
    parameters = ViewParameters.as_is((4,), (5, 6))
    with pytest.raises(ValueError, match="not inside"):
        DeviceView.of(parameters, (4, 6), CPU)
