"""Training: several nets of one shape that differ in seed and in what they are taught by.

A cohort is the members of an ensemble, or a student's taught and untaught nets over all seeds. Nets of one
seed are paired: same first weights, same order of batches, same dropout. What a net becomes does not depend
on its company.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from shared.artefacts.files import digest_of, sha256_bytes
from shared.contracts.architectures import Architecture
from shared.contracts.images import Preprocessing
from shared.contracts.reports import EpochPoint, TrainingCurve
from shared.contracts.training import Budget, Objective, Regularisation
from shared.distillation.checkpoint import CohortCheckpoint, CohortState
from shared.distillation.examples import Batches, Examples
from shared.distillation.records import NetRecord
from shared.distillation.stack import NetStack
from shared.errors import Diverged
from shared.models.checkpoints import unstack

Arm = Literal["teacher", "taught", "untaught"]
OnEpoch = Callable[[int, int, dict[str, float]], None]
HARD_LABELS = Objective(temperature=1.0, soft_weight=0.0, hard_weight=1.0)
"""The objective of a teacher and of an untaught net."""


class TrainingStopped(Exception):
    """Training was asked to stop and has: a later call with the same checkpoints goes on from here."""


@dataclass(frozen=True)
class Net:
    """A net to be trained: its arm's name for the report, its seed, and its objective."""

    arm: Arm
    seed: int
    objective: Objective = HARD_LABELS


@dataclass(frozen=True)
class TrainedNet:
    """A trained net, as it was in its best epoch.

    Attributes:
        arm: as asked.
        seed: as asked.
        tensors: float32 in main memory, named as in `shared.models.network.Network`.
        best_epoch: counted from 1.
        validation_accuracy: in the best epoch; None without a validation split.
        curve: every epoch, for the report.
    """

    arm: Arm
    seed: int
    tensors: dict[str, Tensor]
    best_epoch: int
    validation_accuracy: float | None
    curve: TrainingCurve


def train_cohort(
    architecture: Architecture,
    nets: Sequence[Net],
    examples: Examples,
    *,
    classes: int,
    preprocessing: Preprocessing,
    budget: Budget,
    regularisation: Regularisation | None = None,
    device: torch.device | str = "cpu",
    together: bool | None = None,
    bf16: bool = False,
    checkpoints: Path | None = None,
    checkpoint_every_s: float = 10.0,
    on_epoch: OnEpoch | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[TrainedNet, ...]:
    """Train the nets and return each as it was in its best validation epoch, in the order asked for.

    Args:
        architecture: of every net.
        nets: what to train; no two of the same arm and seed.
        examples: images, labels and teacher logits; moved to the device whole.
        classes: how many.
        preprocessing: from pixels to what the nets see.
        budget: epochs, batch size, optimiser and rate; the rate falls to 0 along a cosine.
        regularisation: dropout, max-norm and jitter, for all nets; None is none.
        device: where to train.
        together: train all nets at once on batched weights, or one after another block by block; None
            chooses: at once on CUDA, one after another elsewhere.
        bf16: run the products in bfloat16 (meant for CUDA); weights and losses stay float32.
        checkpoints: a folder of this training's own. Training goes on from the newest whole checkpoint in
            it, bit for bit as if it had never stopped (CPU, same number of threads).
        checkpoint_every_s: least time between two checkpoints, in seconds; 0 writes one after every epoch.
        on_epoch: told the epochs done, all epochs, and by arm the mean loss in nats and validation accuracy.
            To stop, use `should_stop`: what this raises is not caught.
        should_stop: asked at least every 50 steps; True writes a checkpoint and leaves.

    Raises:
        Diverged: a loss is not finite.
        TrainingStopped: `should_stop` said so.
        ValueError: two nets have the same arm and seed, or an objective lacks labels or logits.
    """
    rule = regularisation or Regularisation()
    _check(nets, examples, rule)
    device = torch.device(device)
    at_once = device.type == "cuda" if together is None else together
    stacks = [
        NetStack(
            architecture,
            [net.seed for net in group],
            [net.objective for net in group],
            classes=classes,
            preprocessing=preprocessing,
            budget=budget,
            regularisation=rule,
            device=device,
            bf16=bf16,
        )
        for group in ([list(nets)] if at_once else [[net] for net in nets])
    ]
    batches = Batches(
        examples,
        preprocessing,
        seeds=tuple(dict.fromkeys(net.seed for net in nets)),
        batch_size=budget.batch_size,
        jitter_px=rule.jitter_px,
        device=device,
    )
    checkpoint = None
    if checkpoints is not None:
        training = _digest(architecture, nets, examples, classes, preprocessing, budget, rule, bf16)
        checkpoint = CohortCheckpoint(checkpoints, training)
    run = _Run(nets, stacks, batches, budget, examples, checkpoint, checkpoint_every_s)
    run.train(on_epoch or _ignore, should_stop or _never)
    return run.trained()


class _Run:
    """One call of `train_cohort`: the loop over epochs, blocks of steps and stacks."""

    def __init__(
        self,
        nets: Sequence[Net],
        stacks: Sequence[NetStack],
        batches: Batches,
        budget: Budget,
        examples: Examples,
        checkpoint: CohortCheckpoint | None,
        checkpoint_every_s: float,
    ) -> None:
        self.nets = nets
        self.stacks = stacks
        self.batches = batches
        self.budget = budget
        self.checkpoint = checkpoint
        self.checkpoint_every_s = checkpoint_every_s
        self.lanes = [batches.lanes(stack.seeds) for stack in stacks]
        device = stacks[0].device
        self.validation: tuple[Tensor, Tensor] | None = None
        if examples.validation_images is not None and examples.validation_labels is not None:
            self.validation = (
                examples.validation_images.to(device),
                examples.validation_labels.to(device),
            )
        self.records = [NetRecord() for _ in nets]
        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        # All nets do a block before anyone asks whether to stop, so that they stop at the same step.
        self.block = max(1, 48 // len(stacks))

    def train(self, on_epoch: OnEpoch, should_stop: Callable[[], bool]) -> None:
        """Train from the newest checkpoint, or from the start, to the last epoch."""
        self._resume()
        now = time.monotonic()
        due = now + self.checkpoint_every_s
        while self.epoch < self.budget.epochs:
            self.batches.start_epoch(self.epoch)
            while self.step < self.batches.steps:
                if should_stop():
                    self._save()
                    raise TrainingStopped
                self._steps(min(self.step + self.block, self.batches.steps))
                now, before = time.monotonic(), now
                self.seconds += now - before
            metrics = self._finish_epoch()
            on_epoch(self.epoch, self.budget.epochs, metrics)
            if time.monotonic() >= due:
                due = self._save_and_pause()

    def trained(self) -> tuple[TrainedNet, ...]:
        """Return every net as it was in its best epoch."""
        best = [tensors for stack in self.stacks for tensors in unstack(stack.best)]
        return tuple(
            TrainedNet(
                arm=net.arm,
                seed=net.seed,
                tensors={name: tensor.detach().cpu().clone() for name, tensor in tensors.items()},
                best_epoch=record.best_epoch,
                validation_accuracy=record.best_accuracy,
                curve=TrainingCurve(
                    arm=net.arm, seed=net.seed, best_epoch=record.best_epoch, points=record.points
                ),
            )
            for net, tensors, record in zip(self.nets, best, self.records, strict=True)
        )

    def _save_and_pause(self) -> float:
        """Write a checkpoint and return when the next is due."""
        began = time.monotonic()
        self._save()
        ended = time.monotonic()
        if not self.checkpoint_every_s:
            return ended
        # On a slow disk less often: writing may take a twentieth of the time, not more.
        return ended + max(self.checkpoint_every_s, 20 * (ended - began))

    def _steps(self, end: int) -> None:
        """Take the steps up to `end` of this epoch, stack by stack: a net's weights stay in the cache."""
        for stack, lanes in zip(self.stacks, self.lanes, strict=True):
            for step in range(self.step, end):
                batch = self.batches.batch(step, lanes)
                stack.step(batch, epoch=self.epoch, step=step, learning_rate=self._rate(step))
        self.step = end

    def _rate(self, step: int) -> float:
        done = (self.epoch * self.batches.steps + step) / (self.budget.epochs * self.batches.steps)
        return self.budget.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _finish_epoch(self) -> dict[str, float]:
        """Validate, note the best, and return the epoch's figures by arm."""
        self.epoch += 1
        self.step = 0
        losses = torch.cat([stack.loss_sum for stack in self.stacks]).tolist()
        losses = [loss / self.batches.rows for loss in losses]
        accuracies: list[float | None] = [None] * len(self.nets)
        nats = [0.0] * len(self.nets)
        if self.validation is not None:
            validated = [stack.validate(*self.validation) for stack in self.stacks]
            accuracies = torch.cat([accuracy for accuracy, _ in validated]).tolist()
            nats = torch.cat([loss for _, loss in validated]).tolist()
        if not all(map(math.isfinite, (*losses, *nats))):
            raise Diverged(self.epoch, sum((*losses, *nats)))
        better = []
        for net, (loss, accuracy, loss_nats) in enumerate(zip(losses, accuracies, nats, strict=True)):
            point = EpochPoint(
                epoch=self.epoch, loss=loss, validation_accuracy=accuracy, seconds=round(self.seconds, 3)
            )
            self.records[net], is_better = self.records[net].after_epoch(point, loss_nats)
            better.append(is_better)
        first = 0
        for stack in self.stacks:
            stack.keep_as_best(better[first : first + len(stack.seeds)])
            stack.loss_sum.zero_()
            first += len(stack.seeds)
        return self._metrics(losses, accuracies)

    def _metrics(self, losses: list[float], accuracies: list[float | None]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for arm in dict.fromkeys(net.arm for net in self.nets):
            of_arm = [i for i, net in enumerate(self.nets) if net.arm == arm]
            metrics[f"{arm}_loss"] = sum(losses[i] for i in of_arm) / len(of_arm)
            known = [accuracy for i in of_arm if (accuracy := accuracies[i]) is not None]
            if known:
                metrics[f"{arm}_validation_accuracy"] = sum(known) / len(known)
        return metrics

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        state = CohortState(
            training=self.checkpoint.training,
            epoch=self.epoch,
            step=self.step,
            seconds=self.seconds,
            nets=tuple(self.records),
        )
        states = [stack.state() for stack in self.stacks]
        # Side by side in one stack, whether or not the nets are trained in one.
        joined = {name: torch.cat([one[name] for one in states]) for name in states[0]}
        self.checkpoint.save(state, {name: tensor.cpu() for name, tensor in joined.items()})

    def _resume(self) -> None:
        found = self.checkpoint.newest() if self.checkpoint is not None else None
        if found is None:
            return
        state, tensors = found
        self.epoch, self.step, self.seconds = state.epoch, state.step, state.seconds
        self.records = list(state.nets)
        first = 0
        for stack in self.stacks:
            last = first + len(stack.seeds)
            own = {name: tensor[first:last] for name, tensor in tensors.items()}
            stack.restore(own, steps_taken=self.epoch * self.batches.steps + self.step)
            first = last


def _check(nets: Sequence[Net], examples: Examples, rule: Regularisation) -> None:
    if not nets or len({(net.arm, net.seed) for net in nets}) != len(nets):
        raise ValueError("a cohort needs at least one net, and no two of the same arm and seed")
    if any(net.objective.soft_weight for net in nets) and examples.teacher_logits is None:
        raise ValueError("an objective has a soft weight, and there are no teacher logits")
    if any(net.objective.hard_weight for net in nets) and examples.labels is None:
        raise ValueError("an objective has a hard weight, and there are no labels")
    if rule.jitter_px and (examples.teacher_logits is not None or examples.shifts is not None):
        raise ValueError("jitter would show the nets other views than the teacher saw; store views instead")


def _digest(
    architecture: Architecture,
    nets: Sequence[Net],
    examples: Examples,
    classes: int,
    preprocessing: Preprocessing,
    budget: Budget,
    rule: Regularisation,
    bf16: bool,
) -> str:
    """Return what tells this training from another that might have used the same folder."""
    return digest_of(
        {
            "architecture": architecture.model_dump(mode="json"),
            "nets": [[net.arm, net.seed, net.objective.model_dump(mode="json")] for net in nets],
            "examples": [
                None if tensor is None else sha256_bytes(tensor.cpu().contiguous().numpy().tobytes())
                for tensor in (
                    examples.images,
                    examples.labels,
                    examples.validation_images,
                    examples.validation_labels,
                    examples.teacher_logits,
                    examples.shifts,
                )
            ],
            "logits_temperature": examples.logits_temperature,
            "classes": classes,
            "preprocessing": preprocessing.model_dump(mode="json"),
            "budget": budget.model_dump(mode="json"),
            "regularisation": rule.model_dump(mode="json"),
            "bf16": bf16,
        }
    )


def _ignore(_epoch: int, _epochs: int, _metrics: dict[str, float]) -> None:
    pass


def _never() -> bool:
    return False
