"""Transfer sets: what is found out about a finished one, and how the API lists and shows them."""

from datetime import datetime
from typing import Final, Literal

from pydantic import Field

from shared.contracts.base import Contract, Digest, Name, Temperature
from shared.contracts.training import TransferSetSpec

TRANSFER_SET_SUMMARY: Final = "summary.json"
TRANSFER_SET_PLOT: Final = "entropy"
"""`entropy.png` and `entropy.svg`, beside the summary."""


class ClassCoverage(Contract):
    """Rows of a transfer set that stand for one class. A row is one view of one image."""

    name: str
    labelled: int
    """Rows whose hard label is this class and may be used."""
    predicted: int
    """Rows in which the teacher gives this class the largest logit; of equal ones the first."""


class TargetEntropy(Contract):
    """Entropy of the soft targets softmax(z / T) over all rows, in nats; ln(classes) is the most there is."""

    temperature: Temperature
    mean_nats: float
    smallest_nats: float
    p05_nats: float
    """A twentieth of the rows have no more than this. This and the other quantiles are right to 0.1 % of
    ln(classes), and finer near 0 and near ln(classes)."""
    p25_nats: float
    median_nats: float
    p75_nats: float
    p95_nats: float
    largest_nats: float


class TopKError(Contract):
    """What is lost where only the k largest logits of a row are kept, and the mass of the rest: the KL
    divergence from the soft targets of all logits to those as stored, over all rows of the set."""

    temperature: Temperature
    rows: int
    mean_nats: float
    largest_nats: float


class TransferSetCost(Contract):
    """What it took to fill a set, by the job that finished it and its child jobs."""

    job_id: str | None = None
    rows_asked: int = Field(default=0, ge=0)
    """That the teacher answered."""
    rows_from_cache: int = Field(default=0, ge=0)
    """Whose answer was in the store: in shards of this set that were whole, or in another of this teacher."""
    rows_rescored: int = Field(default=0, ge=0)
    """Cached rows, drawn at random, that were asked again and agreed."""
    shards_rebuilt: int = Field(default=0, ge=0)
    """Shards that were damaged and had to be written anew."""
    seconds: float = Field(default=0.0, ge=0)


class TransferSetSummary(Contract):
    """`summary.json` beside the shards: figures that need every row, found once when the set is finished."""

    format: Literal[1] = 1
    digest: Digest
    """Of the set."""
    rows: int
    rows_labelled: int
    """Rows with a hard label that may be used; the others are unlabelled."""
    classes: tuple[ClassCoverage, ...]
    """In the order of the logits."""
    entropy: tuple[TargetEntropy, ...]
    """At several temperatures; at the one that the logits serve where the teacher does not temper."""
    top_k_error: tuple[TopKError, ...] | None = None
    """By temperature; None where all logits are kept."""
    cost: TransferSetCost
    created_at: datetime


class TransferSetView(Contract):
    """A transfer set as it is listed."""

    digest: Digest
    created_at: datetime
    format: int
    teacher: Name
    teacher_digest: Digest
    dataset: Name | None
    """Name of a stored dataset of this digest; None where there is none any more."""
    dataset_digest: Digest
    spec: TransferSetSpec
    tempers: bool
    """True where the logits serve any T; False where only at `temperature`."""
    temperature: Temperature
    """At which the teacher was asked."""
    images: int
    views: int
    rows: int
    """Images times views."""
    shards: int
    size_bytes: int
    """Of all its files."""


class TransferSetCard(TransferSetView):
    """One transfer set with all that is known of it."""

    files: tuple[str, ...]
    """That `GET /v1/transfer-sets/{digest}/files/{name}` gives."""
    summary: TransferSetSummary | None
    """None for a set that was finished before summaries were made."""


class TransferSetPage(Contract):
    """One page of transfer sets, newest first; `next_cursor` is null on the last."""

    transfer_sets: tuple[TransferSetView, ...]
    next_cursor: str | None = None
