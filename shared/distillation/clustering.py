"""Which classes a specialist should be for: those that the generalist often predicts together.

Source: Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 5.3. No true labels are needed.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float64
from numpy.typing import NDArray

from shared.models.seeds import mixed_seed

_PASSES = 20
"""Over the columns; after so many a centre moves by a twentieth of its cluster's spread at most."""
_ROWS = 8192


def covariance(logits: Float[np.ndarray, "rows classes"]) -> Float64[np.ndarray, "classes classes"]:
    """Return the covariance matrix of the probabilities at T = 1 that a generalist predicts.

    Two classes that take turns in the lead on the same images, or share them, have a larger entry than two
    that have nothing to do with each other.

    Args:
        logits: the generalist's, at T = 1; a constant in each row changes nothing.
    """
    classes = logits.shape[1]
    total = np.zeros(classes)
    products = np.zeros((classes, classes))
    for start in range(0, len(logits), _ROWS):  # float64 of a piece only: a transfer set is large
        part = logits[start : start + _ROWS].astype(np.float64)
        part = np.exp(part - part.max(1, keepdims=True))
        part /= part.sum(1, keepdims=True)
        total += part.sum(0)
        products += part.T @ part
    mean = total / len(logits)
    matrix: Float64[np.ndarray, "classes classes"] = products / len(logits) - np.outer(mean, mean)
    return matrix


def online_kmeans(
    points: Float64[np.ndarray, "points values"], clusters: int, *, seed: int
) -> Float64[np.ndarray, "clusters values"]:
    """Return the centres that K-means finds point by point (MacQueen 1967).

    Each point draws the nearest centre towards itself, by 1 / (points that this centre has had so far). The
    centres begin on points that lie far from each other (k-means++: Arthur, Vassilvitskii 2007), so none is
    without a point. The same seed gives the same centres.

    Raises:
        ValueError: there are not as many points as clusters.
    """
    if not 1 <= clusters <= len(points):
        raise ValueError(f"{len(points)} points cannot make {clusters} clusters")
    generator = np.random.default_rng(mixed_seed("specialist sets", seed))
    centres = points[_first_centres(points, clusters, generator)].copy()
    met = np.zeros(clusters)
    for _ in range(_PASSES):
        for index in generator.permutation(len(points)):
            nearest = int(((centres - points[index]) ** 2).sum(1).argmin())
            met[nearest] += 1
            centres[nearest] += (points[index] - centres[nearest]) / met[nearest]
    return centres


def specialist_sets(
    matrix: Float64[np.ndarray, "classes classes"], *, sets: int, size: int, seed: int
) -> tuple[tuple[int, ...], ...]:
    """Return sets of confusable classes: of each cluster of columns the `size` classes nearest to its centre.

    A class may be in several sets, and in none. No two sets are equal: where the nearest classes to a centre
    are another's set already, the farthest of them gives way to the next. Sets are made of class indices in
    ascending order.

    Args:
        matrix: of `covariance`.
        sets: how many.
        size: classes in each.
        seed: of the first centres and of the order in which columns come.

    Raises:
        ValueError: there are fewer classes than sets, or no more than a set is to have.
    """
    classes = len(matrix)
    if not 1 <= size < classes:
        raise ValueError(f"a set of {size} cannot be taken from {classes} classes")
    # Columns at length 1: the column of a class that is never predicted with confidence is short, and would
    # lie near to every centre.
    lengths = np.linalg.norm(matrix, axis=0)
    columns = (matrix / np.where(lengths > 0, lengths, 1)).T
    found: list[tuple[int, ...]] = []
    for centre in online_kmeans(columns, sets, seed=seed):
        # Two centres may lie near the same classes; equal specialists would only count twice.
        found.append(next(one for one in _nearest_first(columns, centre, size) if one not in found))
    return tuple(found)


def _first_centres(points: NDArray[np.float64], clusters: int, generator: np.random.Generator) -> list[int]:
    chosen = [int(generator.integers(len(points)))]
    nearest = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < clusters:
        free = np.delete(np.arange(len(points)), chosen)
        weights = nearest[free]
        # Where all that is left lies on a centre already, any will do.
        shares = weights / weights.sum() if weights.sum() > 0 else None
        chosen.append(int(generator.choice(free, p=shares)))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(1))
    return chosen


def _nearest_first(
    columns: NDArray[np.float64], centre: NDArray[np.float64], size: int
) -> Iterator[tuple[int, ...]]:
    """Yield all sets of so many classes; first the nearest ones, then with the last replaced, and so on."""
    distances = ((columns - centre) ** 2).sum(1)
    # Stable: of classes at one distance the first, on every machine.
    order = np.argsort(distances, kind="stable").tolist()
    return (tuple(sorted(one)) for one in itertools.combinations(order, size))
