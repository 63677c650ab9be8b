"""The largest logits of a row and, in one number, what is left: for teachers of many classes.

The classes that are not kept share evenly what mass is left. So at the T at which the teacher was asked
every class that is kept has its own mass, up to rounding; at other T all of them are off a little.
`divergence` says by how much.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.tensors import Array
from shared.transfer_set.format import class_dtype


@dataclass(frozen=True)
class SparseLogits:
    """Rows of logits of which the k largest are kept; all arrays share their leading axes."""

    classes: NDArray[Any]
    """Indices of the classes kept, largest logit first, … x k."""
    logits: NDArray[np.float16]
    """Of the classes kept, … x k."""
    rest: NDArray[np.float16]
    """The logit that stands for every class not kept."""
    total: int
    """Classes that the teacher has."""

    def __getitem__(self, index: Any) -> "SparseLogits":
        """Return those at an index of the leading axes."""
        return SparseLogits(self.classes[index], self.logits[index], self.rest[index], self.total)

    def dense(self) -> NDArray[np.float16]:
        """Return logits of all classes, … x total: of a softmax as stored."""
        whole = np.repeat(self.rest[..., np.newaxis], self.total, axis=-1)
        np.put_along_axis(whole, self.classes.astype(np.int64), self.logits, axis=-1)
        return whole


def logits_of(columns: Mapping[str, Array], total: int) -> NDArray[np.float16]:
    """Return the logits of all classes out of a shard's columns, n x total, whichever way they are stored."""
    if "classes" not in columns:
        return columns["logits"]
    return SparseLogits(columns["classes"], columns["logits"], columns["rest"], total).dense()


def keep_top(z: NDArray[np.floating[Any]], kept: int, *, temperature: float = 1.0) -> SparseLogits:
    """Return the largest logits of each row, and the one that stands for all the others.

    With m = classes - kept, rest = T (log Σ exp(z / T) - log m), the sum over the classes not kept: m classes
    of this logit have their mass.

    Args:
        z: logits, n x classes, more than `kept`.
        kept: k.
        temperature: T at which the mass of the rest is kept.
    """
    classes = np.argpartition(z, -kept, axis=1)[:, -kept:]
    largest = np.take_along_axis(z, classes, axis=1)
    order = np.argsort(-largest, axis=1, kind="stable")
    classes = np.take_along_axis(classes, order, axis=1)
    largest = np.take_along_axis(largest, order, axis=1)
    others = z.astype(np.float64)
    np.put_along_axis(others, classes, -np.inf, axis=1)
    others /= temperature
    top = others.max(axis=1, keepdims=True)
    mass = np.log(np.exp(others - top).sum(axis=1)) + top[:, 0]
    rest = temperature * (mass - np.log(z.shape[1] - kept))
    return SparseLogits(
        classes.astype(class_dtype(z.shape[1])),
        largest.astype(np.float16),
        rest.astype(np.float16),
        z.shape[1],
    )


def divergence(
    full: NDArray[np.floating[Any]], stored: NDArray[np.floating[Any]], *, temperature: float
) -> NDArray[np.float64]:
    """Return the KL divergence from the soft targets of `full` to those of `stored`, in nats a row.

    Args:
        full: logits of all classes, n x classes.
        stored: as they are read back.
        temperature: T of both.
    """
    p, q = (_log_softmax(logits, temperature) for logits in (full, stored))
    # A sum of numbers of both signs: rounding may leave a divergence of nothing below 0.
    lost: NDArray[np.float64] = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    return lost


def _log_softmax(logits: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled
