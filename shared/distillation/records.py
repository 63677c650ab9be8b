"""What is noted of each net while it is trained: its curve, and its best epoch so far."""

from typing import Literal

from shared.contracts.base import Contract
from shared.contracts.reports import EpochPoint


class NetRecord(Contract):
    """One net's curve and best epoch; goes into the checkpoint."""

    points: tuple[EpochPoint, ...] = ()
    best_epoch: int = 0
    best_accuracy: float | None = None
    best_nats: float = 0.0

    def after_epoch(
        self, point: EpochPoint, nats: float, *, keep: Literal["best", "last"] = "best"
    ) -> tuple["NetRecord", bool]:
        """Return the record with one epoch more, and whether that epoch is the one to keep so far.

        The higher validation accuracy wins, at equal accuracy the lower validation loss. Without a
        validation split, or where the last epoch is to be kept, the last wins.

        Args:
            point: the epoch.
            nats: its validation loss.
            keep: the best epoch or the last.
        """
        points = (*self.points, point)
        accuracy = point.validation_accuracy
        if (
            keep == "best"
            and accuracy is not None
            and self.best_accuracy is not None
            and (accuracy, -nats) <= (self.best_accuracy, -self.best_nats)
        ):
            return self.model_copy(update={"points": points}), False
        best = {"best_epoch": point.epoch, "best_accuracy": accuracy, "best_nats": nats}
        return self.model_copy(update={"points": points, **best}), True
