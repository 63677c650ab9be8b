"""Checkpoints of a cohort in training: what they hold, and that they belong to this training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from shared.artefacts.checkpoints import CheckpointFolder
from shared.contracts.base import Contract, Digest
from shared.distillation.records import NetRecord
from shared.models.checkpoints import read_tensors, to_bytes


class CohortState(Contract):
    """Where training is.

    Nothing else has a state. Random numbers (order, dropout, jitter, flips) follow from seed, epoch and step,
    so no generator does; the rate follows from epoch and step.
    """

    format: Literal[3] = 3
    training: Digest
    """Of all that the training follows from; a checkpoint of another training is none."""
    epoch: int
    """Epochs done."""
    step: int
    """Steps done of the epoch after those."""
    seconds: float
    """Spent so far."""
    threads: int
    """Of PyTorch: sums of another number of threads differ in their last bits."""
    nets: tuple[NetRecord, ...]


@dataclass(frozen=True)
class CohortCheckpoint:
    """The checkpoints of one training in a folder of their own (`shared.artefacts.checkpoints`)."""

    directory: Path
    training: str

    def save(self, state: CohortState, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint and remove all but the newest two.

        Raises:
            OSError: the disk is full; the checkpoints before are untouched.
        """
        CheckpointFolder(self.directory).save(state.model_dump(mode="json"), to_bytes(tensors))

    def newest(self) -> tuple[CohortState, dict[str, Tensor]] | None:
        """Return the newest whole checkpoint of this training, or None where there is none."""
        found = CheckpointFolder(self.directory).newest(
            lambda state: (state.get("training"), state.get("format")) == (self.training, 3)
        )
        if found is None:
            return None
        return CohortState.model_validate(found.state), read_tensors(found.weights)
