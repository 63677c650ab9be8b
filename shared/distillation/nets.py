"""What is asked of a training, net by net, and what comes back."""

from dataclasses import dataclass

from torch import Tensor

from shared.contracts.reports import TrainingCurve
from shared.contracts.training import Objective
from shared.models.seeds import mixed_seed

Arm = str
"""What a net is in its report: `teacher`, `taught`, `untaught`, or what its kind of job calls it."""

HARD_LABELS = Objective(temperature=1.0, soft_weight=0.0, hard_weight=1.0)
"""The objective of a teacher and of an untaught net."""


@dataclass(frozen=True)
class Net:
    """A net to be trained.

    Attributes:
        arm: its name for the report.
        seed: of its first weights, order of batches, jitter and dropout. Nets of one seed are paired: they
            start alike and see the same batches.
        objective: what it minimises.
        member: nets of one seed and different numbers see the same batches, and differ in first weights and
            dropout.
        group: nets of one group, seed and objective teach each other at every step: the soft term takes the
            mean over the others in place of a teacher (mutual learning). None learns alone.
    """

    arm: Arm
    seed: int
    objective: Objective = HARD_LABELS
    member: int = 0
    group: str | None = None

    @property
    def own_seed(self) -> int:
        """The seed of first weights and dropout."""
        return mixed_seed("member", self.seed, self.member) if self.member else self.seed


@dataclass(frozen=True)
class TrainedNet:
    """A trained net, as it was in the epoch that was kept.

    Attributes:
        arm: as asked.
        seed: as asked.
        tensors: weights and buffers, float32 in main memory, named as in `Network.module`.
        best_epoch: the epoch kept, counted from 1.
        validation_accuracy: in that epoch; None without a validation split.
        curve: every epoch, for the report.
    """

    arm: Arm
    seed: int
    tensors: dict[str, Tensor]
    best_epoch: int
    validation_accuracy: float | None
    curve: TrainingCurve
