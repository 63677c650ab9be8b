"""docs/transfer-set.md: a stranger makes every view with what the page shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.transfer_set.views import apply_views
from tests.support.views import random_images, random_views
from tests.unit.shared.transfer_set.test_docs import page_code


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 24), st.integers(1, 24)), st.sampled_from([1, 3]))
def test_the_code_on_the_page_makes_every_view(seed: int, size: tuple[int, int], channels: int) -> None:
    rng = np.random.default_rng(seed)
    images, parameters = random_images(rng, 4, size, channels), random_views(rng, 4, size)
    view_of, ours = page_code()["view_of"], apply_views(images, parameters)
    for number, image in enumerate(images):
        theirs = view_of(image, **parameters[number].columns())
        np.testing.assert_array_equal(theirs, ours[number], strict=True)


@pytest.mark.parametrize("kind", ["crop", "flip", "shift", "tone", "cutout"])
def test_what_a_set_leaves_out_is_as_it_is(kind: str) -> None:
    rng = np.random.default_rng(0)
    images, parameters = random_images(rng, 4, (9, 12), 3), random_views(rng, 4, (9, 12), (kind,))
    view_of, ours = page_code()["view_of"], apply_views(images, parameters)
    for number, image in enumerate(images):
        stored = {kind: parameters[number].columns()[kind]}
        np.testing.assert_array_equal(view_of(image, **stored), ours[number])
