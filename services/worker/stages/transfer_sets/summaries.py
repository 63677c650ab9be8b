"""What is found out about a transfer set once it is finished: `summary.json` and a plot beside its shards."""

from pydantic import ValidationError

from services.worker.stages.transfer_sets.wanted import Wanted
from shared.contracts.transfer_sets import (
    TRANSFER_SET_PLOT,
    TRANSFER_SET_SUMMARY,
    TransferSetCost,
    TransferSetSummary,
)
from shared.distillation.plots import plot_entropy
from shared.transfer_set.store import TransferSetStore
from shared.transfer_set.summary import summarise_stored


def put_summary(wanted: Wanted, cost: TransferSetCost) -> TransferSetSummary:
    """Summarise the finished set, store that beside it, and return it.

    Args:
        wanted: the set.
        cost: what it took to fill it.

    Raises:
        StoreFull: nothing more fits.
    """
    sets, digest = wanted.context.transfer_sets, wanted.digest
    summary = summarise_stored(sets.set_files(digest), sets.manifest(digest), wanted.train.labels, cost=cost)
    plot = plot_entropy(summary.entropy, classes=len(summary.classes))
    sets.put_file(digest, f"{TRANSFER_SET_PLOT}.png", plot.png)
    sets.put_file(digest, f"{TRANSFER_SET_PLOT}.svg", plot.svg)
    # Last: who finds the summary finds the plot.
    sets.put_file(digest, TRANSFER_SET_SUMMARY, summary.model_dump_json(indent=2).encode())
    return summary


def stored_summary(sets: TransferSetStore, digest: str) -> TransferSetSummary | None:
    """Return the summary that lies beside a finished set; None where there is none that can be read."""
    if TRANSFER_SET_SUMMARY not in sets.files(digest):
        return None
    try:
        return TransferSetSummary.model_validate_json(sets.file(digest, TRANSFER_SET_SUMMARY).read_bytes())
    except ValidationError:
        return None
