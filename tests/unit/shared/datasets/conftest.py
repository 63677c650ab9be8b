"""A few real digits, twelve of each class, in mixed order."""

import numpy as np
import pytest

from shared.datasets.builtin import load_builtin
from tests.support.uploads import Digits


@pytest.fixture(scope="session")
def digits() -> Digits:
    test = load_builtin("mnist-5k", None)[0]["test"]
    assert test.labels is not None
    rows = np.concatenate([np.flatnonzero(test.labels == digit)[:12] for digit in range(10)])
    rows = np.random.default_rng(0).permutation(rows)
    return [(test.images[row], int(test.labels[row])) for row in rows]
