"""Which images a transfer set takes by what is said of them: where a teacher is unsure, a student disagrees.

Both are classics of active learning (Settles 2009, "Active Learning Literature Survey", sections 3.1 and
3.2): uncertainty sampling by entropy, and disagreement by Kullback-Leibler divergence. No label is read.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.transfer_set.selection import share_of

_BLOCK_ROWS: Final = 8192
"""Looked at together, so that a large set is never in memory as 64-bit floats."""

LogitsOf = Callable[[slice], NDArray[Any]]
"""Given places in the rows to choose from, returns logits at T = 1 of those, n x classes."""


def choose_rows(
    rows: NDArray[np.int64], share: float, teacher: LogitsOf, student: LogitsOf | None = None
) -> NDArray[np.int64]:
    """Return the rows with the highest scores, rising; of equal ones the first.

    Args:
        rows: to choose from, rising.
        share: of them, as `Choice.share`.
        teacher: what it says of each.
        student: what it says of each. With one the score is the KL divergence from its probabilities to the
            teacher's, without one the entropy of the teacher's; both at T = 1.
    """
    scores = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = slice(start, min(start + _BLOCK_ROWS, len(rows)))
        said = _log_softmax(teacher(block))
        scores[block] = (
            -(np.exp(said) * said).sum(axis=1)
            if student is None
            else (np.exp(said) * (said - _log_softmax(student(block)))).sum(axis=1)
        )
    best = np.argsort(-scores, kind="stable")[: share_of(len(rows), share)]
    return np.sort(rows[best])


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    shifted: NDArray[np.float64] = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return shifted
