"""What is to be known of a finished transfer set: coverage by class, entropy of the targets by temperature.

Found once, shard after shard, so that memory stays flat however many rows there are: a shard is mapped, read
in blocks and let go, and quantiles come of a histogram of fixed size.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.contracts.transfer_sets import (
    ClassCoverage,
    TargetEntropy,
    TopKError,
    TransferSetCost,
    TransferSetSummary,
)
from shared.transfer_set.format import ERROR_TEMPERATURES, TransferSetManifest
from shared.transfer_set.places import SetFiles
from shared.transfer_set.reader import read_shard
from shared.transfer_set.topk import SparseLogits

_SHARES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_BINS: Final = 4096
_FINENESS: Final = 4
"""Of the histogram, at both ends: a sure teacher's entropies crowd near 0, at a high T near ln(classes)."""
_BLOCK_NUMBERS: Final = 2**21
"""Logits that are looked at together: 8 MB as 32-bit floats."""


@dataclass(frozen=True)
class Answers:
    """Some rows of a transfer set, such as those of one shard."""

    rows: NDArray[np.int64]
    """Which training image each is a view of, n."""
    labelled: NDArray[Any]
    """Whether the hard label of the image may be used, n: bool, or 0 and 1."""
    logits: NDArray[np.float16]
    """z, n x classes: all of them, also where the set keeps the k largest."""


def summarise_stored(
    files: SetFiles,
    manifest: TransferSetManifest,
    labels: NDArray[np.int64] | None,
    *,
    cost: TransferSetCost | None = None,
) -> TransferSetSummary:
    """Return the summary of a finished set, read shard by shard; arguments as `summarise` has them.

    Raises:
        Corrupt: a shard is missing, or not what the manifest says.
    """
    inputs = manifest.inputs
    return summarise(
        manifest.digest,
        inputs.classes,
        stored_answers(files, manifest),
        labels,
        temperatures=inputs.error_temperatures,
        cost=cost,
        top_k_error=manifest.top_k_error,
    )


def stored_answers(files: SetFiles, manifest: TransferSetManifest) -> Iterator[Answers]:
    """Yield what a finished set holds, a shard at a time."""
    inputs = manifest.inputs
    for shard in manifest.shards:
        columns = read_shard(files, shard, inputs)
        logits = columns["logits"]
        if inputs.kept is not None:
            logits = SparseLogits(columns["classes"], logits, columns["rest"], len(inputs.classes)).dense()
        yield Answers(columns["row"], columns["labelled"], logits)


def summarise(
    digest: str,
    classes: Sequence[str],
    answers: Iterable[Answers],
    labels: NDArray[np.int64] | None,
    *,
    temperatures: Sequence[float] = ERROR_TEMPERATURES,
    cost: TransferSetCost | None = None,
    top_k_error: tuple[TopKError, ...] | None = None,
) -> TransferSetSummary:
    """Return the summary of a transfer set.

    Args:
        digest: of the set.
        classes: names in the order of the logits.
        answers: all rows, in parts of any size; each part is let go before the next is asked for.
        labels: of the whole training split, by row; below 0 is none. None where nothing is labelled.
        temperatures: at which entropies are taken: those that the logits serve.
        cost: what it took to fill the set.
        top_k_error: measured while all logits were at hand; None where all are kept.

    Raises:
        ValueError: there is no row.
    """
    most = math.log(len(classes))
    spreads = [_Spread(most) for _ in temperatures]
    labelled = np.zeros(len(classes), np.int64)
    predicted = np.zeros(len(classes), np.int64)
    rows = 0
    for block in _blocks(answers, len(classes)):
        rows += len(block.rows)
        predicted += np.bincount(block.logits.argmax(axis=1), minlength=len(classes))
        if labels is not None:
            of_rows = labels[block.rows[np.asarray(block.labelled, np.bool_)]]
            labelled += np.bincount(of_rows[of_rows >= 0], minlength=len(classes))
        for temperature, spread in zip(temperatures, spreads, strict=True):
            spread.add(entropies(block.logits, temperature))
    if not rows:
        raise ValueError("a transfer set without rows has no summary")
    return TransferSetSummary(
        digest=digest,
        rows=rows,
        rows_labelled=int(labelled.sum()),
        classes=tuple(
            ClassCoverage(name=name, labelled=int(labelled[place]), predicted=int(predicted[place]))
            for place, name in enumerate(classes)
        ),
        entropy=tuple(
            spread.figures(temperature) for temperature, spread in zip(temperatures, spreads, strict=True)
        ),
        top_k_error=top_k_error,
        cost=cost or TransferSetCost(),
        created_at=datetime.now(UTC),
    )


def entropies(logits: NDArray[Any], temperature: float) -> NDArray[np.float32]:
    """Return the entropy of softmax(z / T) of each row in nats: n x classes to n, 0 to ln(classes)."""
    z = logits.astype(np.float32) / np.float32(temperature)
    z -= z.max(axis=1, keepdims=True)
    e = np.exp(z)
    total = e.sum(axis=1)
    found: NDArray[np.float32] = np.log(total) - np.einsum("rc,rc->r", e, z) / total
    return np.clip(found, 0.0, math.log(logits.shape[1]))


class _Spread:
    """Entropies at one temperature: their mean, their ends, and a histogram for the quantiles."""

    def __init__(self, most: float) -> None:
        lower = 0.5 * np.linspace(0.0, 1.0, _BINS // 2 + 1) ** _FINENESS
        self._edges = most * np.concatenate((lower, 1.0 - lower[-2::-1]))
        self._counts = np.zeros(_BINS, np.int64)
        self._sum = 0.0
        self._smallest, self._largest = math.inf, 0.0

    def add(self, found: NDArray[np.float32]) -> None:
        places = np.searchsorted(self._edges[1:-1], found, side="right")
        self._counts += np.bincount(places, minlength=_BINS)
        self._sum += float(found.sum(dtype=np.float64))
        self._smallest = min(self._smallest, float(found.min()))
        self._largest = max(self._largest, float(found.max()))

    def figures(self, temperature: float) -> TargetEntropy:
        p05, p25, median, p75, p95 = map(self._quantile, _SHARES)
        return TargetEntropy(
            temperature=temperature,
            mean_nats=self._sum / int(self._counts.sum()),
            smallest_nats=self._smallest,
            p05_nats=p05,
            p25_nats=p25,
            median_nats=median,
            p75_nats=p75,
            p95_nats=p95,
            largest_nats=self._largest,
        )

    def _quantile(self, share: float) -> float:
        below = np.concatenate(([0], np.cumsum(self._counts)))
        # Within a bin entropies are taken as evenly spread.
        value = float(np.interp(share * below[-1], below, self._edges))
        return min(max(value, self._smallest), self._largest)


def _blocks(answers: Iterable[Answers], classes: int) -> Iterator[Answers]:
    """Cut parts into blocks of at most so many logits."""
    step = max(1, _BLOCK_NUMBERS // classes)
    for part in answers:
        for start in range(0, len(part.rows), step):
            cut = slice(start, start + step)
            yield Answers(part.rows[cut], part.labelled[cut], part.logits[cut])
