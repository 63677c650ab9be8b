"""What specialists change where: the paper's table by number of covering specialists.

Source: Hinton, Vinyals, Dean (2015), arXiv:1503.02531, table 4.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from shared.contracts.reports import CoverageRow

MOST = 10
"""From so many covering specialists on, rows are lumped together, as in the paper."""


def coverage_table(
    sets: Sequence[Sequence[int]],
    labels: Int64[np.ndarray, " rows"],
    generalist_right: Bool[np.ndarray, " rows"],
    combined_right: Bool[np.ndarray, "seeds rows"],
) -> tuple[CoverageRow, ...]:
    """Return a row for each number of specialists that cover the true class of any image.

    Args:
        sets: class indices of each specialist.
        labels: true classes.
        generalist_right: whether the generalist alone is right on each image.
        combined_right: whether it is together with the specialists of each seed.
    """
    covering = np.array([sum(int(label) in one for one in sets) for label in range(int(labels.max()) + 1)])
    number = np.minimum(covering[labels], MOST)
    rows = []
    for count in np.unique(number):
        own = number == count
        before = int(generalist_right[own].sum())
        rows.append(
            CoverageRow(
                covering=int(count),
                or_more=int(count) == MOST,
                examples=int(own.sum()),
                generalist_correct=before,
                changes=tuple(int(right[own].sum()) - before for right in combined_right),
            )
        )
    return tuple(rows)
