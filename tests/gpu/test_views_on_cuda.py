"""Views on a GPU: the very pixels of numpy, without waiting for the GPU."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.distillation.examples import Batches, Examples
from shared.transfer_set.views import ViewParameters
from tests.support.cohorts import PREPROCESSING, examples
from tests.support.views import KINDS, both_ways, random_views

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    st.sampled_from([1, 3, 4]),
    st.sets(st.sampled_from(KINDS)),
)
def test_views_on_a_gpu_are_those_of_numpy_to_the_bit(seed, size, channels, kinds):
    by_numpy, made = both_ways(np.random.default_rng(seed), size, channels, tuple(kinds), "cuda")
    assert torch.equal(made.cpu(), by_numpy)


def test_no_batch_of_views_waits_for_the_gpu():
    data, rng = examples(views=None), np.random.default_rng(0)
    parameters = ViewParameters.stack([random_views(rng, data.rows, (6, 6)) for _ in range(2)])
    source = Batches(
        Examples(data.images, data.labels, parameters=parameters),
        PREPROCESSING,
        seeds=(0, 1),
        batch_size=32,
        jitter_px=0,
        device=torch.device("cuda"),
    )
    source.start_epoch(1)
    lanes = source.lanes((0, 1))
    source.batch(0, lanes)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for step in range(source.steps):
                source.batch(step, lanes)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert not seen
