"""The loop of a training: epochs, blocks of steps, validation, checkpoints, and what is kept."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from shared.contracts.reports import EpochPoint, TrainingCurve
from shared.contracts.training import Budget
from shared.distillation.checkpoint import CohortCheckpoint, CohortState
from shared.distillation.examples import Batches, Examples
from shared.distillation.nets import Net, TrainedNet
from shared.distillation.records import NetRecord
from shared.distillation.side_by_side import Each, one_by_one, side_by_side, threads_as_before
from shared.distillation.stack import NetStack
from shared.errors import Diverged
from shared.models.checkpoints import unstack

log = logging.getLogger(__name__)

OnEpoch = Callable[[int, int, dict[str, float]], None]
"""Told the epochs done, all epochs, and figures by name."""
Refresh = Callable[[int, Sequence[Mapping[str, Tensor]]], Tensor | None]
"""Told the epochs done and each net's tensors, returns teacher logits: float16, views x rows x classes."""

_STEPS_BETWEEN_QUESTIONS = 48
_SECONDS_BETWEEN_QUESTIONS = 1.0
_T = TypeVar("_T")


class TrainingStopped(Exception):
    """Training was asked to stop and has: a later call with the same checkpoints goes on from here."""


class Rounds:
    """One training of a cohort.

    Args:
        nets: all of them, in the order asked for.
        parts: the places in `nets` of each stack's nets.
        stacks: nets that are trained by the same calls.
        batches: where their batches come from.
        budget: epochs, rate, what is kept.
        examples: for the validation split.
        refresh: see `train_cohort`.
        checkpoint: where to write, or None.
        checkpoint_every_s: least time between two checkpoints, in seconds, also within an epoch; 0 writes one
            after every epoch.
    """

    def __init__(
        self,
        nets: Sequence[Net],
        parts: Sequence[Sequence[int]],
        stacks: Sequence[NetStack],
        batches: Batches,
        budget: Budget,
        examples: Examples,
        refresh: Refresh | None,
        checkpoint: CohortCheckpoint | None,
        checkpoint_every_s: float,
    ) -> None:
        self._nets = nets
        self._parts = parts
        self._stacks = stacks
        self._batches = batches
        self._budget = budget
        self._refresh = refresh
        self._checkpoint = checkpoint
        self._checkpoint_every_s = checkpoint_every_s
        self._lanes = [batches.lanes(stack.seeds) for stack in stacks]
        device = stacks[0].device
        self._validation: tuple[Tensor, Tensor] | None = None
        if examples.validation_images is not None and examples.validation_labels is not None:
            self._validation = (
                examples.validation_images.to(device),
                examples.validation_labels.to(device),
            )
        self._records = [NetRecord() for _ in nets]
        self._epoch = 0
        self._step = 0
        self._seconds = 0.0
        self._each: Each = one_by_one(len(stacks))
        self._threads = torch.get_num_threads()
        # All nets do a block before anyone asks whether to stop, so that they stop at the same step.
        self._largest_block = max(1, _STEPS_BETWEEN_QUESTIONS // len(stacks))
        # How long a step takes is not known before the first.
        self._block = 1

    def train(self, on_epoch: OnEpoch, should_stop: Callable[[], bool]) -> None:
        """Train from the newest checkpoint, or from the start, to the last epoch.

        Raises:
            Diverged: a loss or a weight is not finite.
            TrainingStopped: `should_stop` said so.
        """
        device = self._stacks[0].device
        found = self._checkpoint.newest() if self._checkpoint is not None else None
        threads = found[0].threads if found is not None else torch.get_num_threads()
        with threads_as_before(threads, device) as self._threads:
            if found is not None:
                self._resume(*found)
            with side_by_side(len(self._stacks), device) as self._each:
                self._train(on_epoch, should_stop)

    def _train(self, on_epoch: OnEpoch, should_stop: Callable[[], bool]) -> None:
        now = time.monotonic()
        due = now + self._checkpoint_every_s
        while self._epoch < self._budget.epochs:
            try:
                self._start_epoch()
            except Exception:
                # The teacher may be waited for here, for long: what was learned until then is kept.
                self._save_if_it_fits()
                raise
            while self._step < self._batches.steps:
                if should_stop():
                    self._save_if_it_fits()
                    raise TrainingStopped
                began = time.monotonic()
                end = min(self._step + self._block, self._batches.steps)
                steps = end - self._step
                self._steps(end)
                now, before = time.monotonic(), now
                self._seconds += now - before
                self._block = self._next_block(steps, now - began)
                if now >= due and self._may_save_within_an_epoch():
                    due = self._save_and_pause()
            metrics = self._finish_epoch()
            on_epoch(self._epoch, self._budget.epochs, metrics)
            if time.monotonic() >= due:
                due = self._save_and_pause()

    def trained(self) -> tuple[TrainedNet, ...]:
        """Return every net as it was in the epoch that is kept."""
        best = self._by_net([unstack(stack.best) for stack in self._stacks])
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
            for net, tensors, record in zip(self._nets, best, self._records, strict=True)
        )

    def _start_epoch(self) -> None:
        if self._refresh is not None:
            tensors = self._by_net([unstack(stack.tensors) for stack in self._stacks])
            detached = [{name: one.detach() for name, one in net.items()} for net in tensors]
            logits = self._refresh(self._epoch, detached)
            if logits is not None:
                self._batches.take_logits(logits)
        self._batches.start_epoch(self._epoch)

    def _next_block(self, steps: int, seconds: float) -> int:
        """Return how many steps to take before the next question, given how long the last ones took."""
        in_time = _SECONDS_BETWEEN_QUESTIONS * steps / max(seconds, 1e-9)
        # An epoch's last batch may be small and quick, and says little of the others.
        return int(max(1, min(in_time, 2 * self._block, self._largest_block)))

    def _may_save_within_an_epoch(self) -> bool:
        # At its end one is written that knows the validation. What a refresh returned is part of none.
        return self._checkpoint_every_s > 0 and self._step < self._batches.steps and self._refresh is None

    def _save_and_pause(self) -> float:
        """Write a checkpoint and return when the next is due."""
        began = time.monotonic()
        self._save()
        ended = time.monotonic()
        if not self._checkpoint_every_s:
            return ended
        # On a slow disk less often: writing may take a twentieth of the time, not more.
        return ended + max(self._checkpoint_every_s, 20 * (ended - began))

    def _steps(self, end: int) -> None:
        """Take the steps up to `end` of this epoch, a stack at a time: a net's weights stay in the cache."""

        def of_stack(place: int) -> None:
            for step in range(self._step, end):
                self._stacks[place].step(
                    self._batches.batch(step, self._lanes[place]),
                    epoch=self._epoch,
                    step=step,
                    taken=self._epoch * self._batches.steps + step,
                    learning_rate=self._rate(step),
                )

        self._each(of_stack)
        self._step = end

    def _rate(self, step: int) -> float:
        done = (self._epoch * self._batches.steps + step) / (self._budget.epochs * self._batches.steps)
        return self._budget.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _finish_epoch(self) -> dict[str, float]:
        """Validate, note the best, and return the epoch's figures by arm."""
        self._epoch += 1
        self._step = 0
        for stack in self._stacks:
            stack.check(self._epoch)
        losses = self._by_net([stack.loss_sum.tolist() for stack in self._stacks])
        losses = [loss / self._batches.rows for loss in losses]
        accuracies: list[float | None] = [None] * len(self._nets)
        nats = [0.0] * len(self._nets)
        if self._validation is not None:
            images, labels = self._validation
            validated = self._each(lambda place: self._stacks[place].validate(images, labels))
            accuracies = self._by_net([accuracy.tolist() for accuracy, _ in validated])
            nats = self._by_net([loss.tolist() for _, loss in validated])
        if not all(map(math.isfinite, nats)):
            raise Diverged(self._epoch, sum(nats))
        better = [self._note(*figures) for figures in enumerate(zip(losses, accuracies, nats, strict=True))]
        for stack, part in zip(self._stacks, self._parts, strict=True):
            stack.keep_as_best([better[net] for net in part])
            stack.loss_sum.zero_()
        return self._metrics(losses, accuracies)

    def _note(self, net: int, figures: tuple[float, float | None, float]) -> bool:
        loss, accuracy, nats = figures
        point = EpochPoint(
            epoch=self._epoch, loss=loss, validation_accuracy=accuracy, seconds=round(self._seconds, 3)
        )
        self._records[net], is_kept = self._records[net].after_epoch(point, nats, keep=self._budget.keep)
        return is_kept

    def _metrics(self, losses: list[float], accuracies: list[float | None]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for arm in dict.fromkeys(net.arm for net in self._nets):
            of_arm = [i for i, net in enumerate(self._nets) if net.arm == arm]
            metrics[f"{arm}_loss"] = sum(losses[i] for i in of_arm) / len(of_arm)
            known = [accuracy for i in of_arm if (accuracy := accuracies[i]) is not None]
            if known:
                metrics[f"{arm}_validation_accuracy"] = sum(known) / len(known)
        return metrics

    def _by_net(self, by_stack: Sequence[Sequence[_T]]) -> list[_T]:
        """Return what each stack says of its nets in the order of the nets."""
        of_net = {
            net: value
            for part, values in zip(self._parts, by_stack, strict=True)
            for net, value in zip(part, values, strict=True)
        }
        return [of_net[net] for net in range(len(self._nets))]

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        for stack in self._stacks:
            stack.check(self._epoch + 1)
        state = CohortState(
            training=self._checkpoint.training,
            epoch=self._epoch,
            step=self._step,
            seconds=self._seconds,
            threads=self._threads,
            nets=tuple(self._records),
        )
        # A net each, whether or not they are trained in one stack: who resumes may do it otherwise.
        states = self._by_net([stack.state() for stack in self._stacks])
        self._checkpoint.save(
            state,
            {
                f"{net}/{name}": tensor.cpu()
                for net, tensors in enumerate(states)
                for name, tensor in tensors.items()
            },
        )

    def _save_if_it_fits(self) -> None:
        """Write a checkpoint on leaving; where the disk takes none, the one before is gone on from."""
        try:
            self._save()
        except OSError as error:
            log.warning("no checkpoint could be written on leaving", extra={"reason": str(error)})

    def _resume(self, state: CohortState, tensors: Mapping[str, Tensor]) -> None:
        self._epoch, self._step, self._seconds = state.epoch, state.step, state.seconds
        self._records = list(state.nets)
        states: list[dict[str, Tensor]] = [{} for _ in self._nets]
        for key, tensor in tensors.items():
            net, name = key.split("/", 1)
            states[int(net)][name] = tensor
        for stack, part in zip(self._stacks, self._parts, strict=True):
            stack.restore([states[net] for net in part])
