"""Training: several nets of one shape that differ in seed and in what they are taught by.

A cohort is the members of an ensemble, a student's taught and untaught nets over all seeds, or nets that
teach each other. Nets of one seed are paired: same first weights, same order of batches, same dropout. But
for peers, what a net becomes does not depend on its company.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from shared.artefacts.files import digest_of, sha256_bytes
from shared.contracts.architectures import Architecture
from shared.contracts.images import Preprocessing
from shared.contracts.training import Budget, Regularisation
from shared.distillation.checkpoint import CohortCheckpoint
from shared.distillation.examples import Batches, Examples, RowsOfEpoch
from shared.distillation.hints import TeacherFeatures
from shared.distillation.nets import HARD_LABELS, Arm, Net, TrainedNet
from shared.distillation.rounds import OnEpoch, Refresh, Rounds, TrainingStopped
from shared.distillation.stack import NetStack
from shared.errors import DecoupledNeedsClasses
from shared.models.network import Network

__all__ = [
    "HARD_LABELS",
    "Arm",
    "Initial",
    "Net",
    "OnEpoch",
    "Refresh",
    "RowsOfEpoch",
    "TrainedNet",
    "TrainingStopped",
    "train_cohort",
]

Initial = Mapping[tuple[str, int], Mapping[str, Tensor]]
"""Weights and buffers of nets by (arm, seed), one net's each."""


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
    initial: Initial | None = None,
    teacher: TeacherFeatures | None = None,
    refresh: Refresh | None = None,
    rows_of_epoch: RowsOfEpoch | None = None,
    checkpoints: Path | None = None,
    checkpoint_every_s: float = 10.0,
    on_epoch: OnEpoch | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[TrainedNet, ...]:
    """Train the nets and return each as it was in the epoch that the budget keeps, in the order asked for.

    Args:
        architecture: of every net.
        nets: what to train; no two of the same arm and seed.
        examples: images, labels and teacher logits; moved to the device whole. A row without a label adds
            nothing to the terms that need one.
        classes: how many.
        preprocessing: from pixels to what the nets see.
        budget: epochs, batch size, optimiser, rate (it falls to 0 along a cosine), precision, and which
            epoch is kept.
        regularisation: dropout, max-norm, jitter and flips, for all nets; None is none.
        device: where to train.
        together: train all nets at once on batched weights, or one after another block by block; None
            chooses: at once on CUDA, one after another elsewhere. Peers are always trained at once.
        initial: first weights and buffers of nets by (arm, seed), one net's each, in place of those of the
            seed.
        teacher: whose layers hints and attention look into; it must live on the same device.
        refresh: asked for new teacher logits at the start of each epoch, and again where training goes on
            within one. It gets the epochs done and each net's tensors as they are, in the order asked for,
            and returns float16 logits of every view of every row at T = 1, or None to keep those it had.
            While there are none, terms of a teacher are left out. What it returns is not part of a
            checkpoint: to resume bit for bit it must depend on its arguments at the start of an epoch alone.
        rows_of_epoch: asked for the rows that a seed is shown in an epoch (counted from 0), in that order;
            rows may come several times or not at all, but equally many in each epoch. It must depend on its
            arguments alone. None shows each row once, in an order of the seed and epoch.
        checkpoints: a folder of this training's own. Training goes on from the newest whole checkpoint in
            it, bit for bit as if it had never stopped: on a CPU, with the threads that it began with where
            this machine has as many CPUs; on CUDA with deterministic algorithms.
        checkpoint_every_s: least time between two checkpoints, in seconds; one may come at any step, but
            with `refresh` only after an epoch. 0 writes one after every epoch.
        on_epoch: told the epochs done, all epochs, and by arm the mean loss in nats and validation accuracy.
            To stop, use `should_stop`: what this raises is not caught.
        should_stop: asked about once a second, but between two steps, and at least every 50 steps; True
            writes a checkpoint and leaves.

    Raises:
        Diverged: a loss or a weight is not finite; the checkpoints hold none that is not.
        TrainingStopped: `should_stop` said so.
        UnknownLayer, LayersDoNotJoin: a hint or attention names layers that are not there or do not fit.
        DecoupledNeedsClasses: decoupled distillation of two classes.
        ValueError: two nets have the same arm and seed, or an objective lacks what it is computed from.
    """
    rule = regularisation or Regularisation()
    _check(nets, examples, rule, classes, teacher=teacher is not None, refreshed=refresh is not None)
    device = torch.device(device)
    network = Network(architecture, preprocessing.input, classes)
    at_once = device.type == "cuda" if together is None else together
    parts = [list(range(len(nets)))] if at_once else _apart(nets)
    stacks = [
        NetStack(
            network,
            [nets[net] for net in part],
            initial=initial or {},
            preprocessing=preprocessing,
            budget=budget,
            regularisation=rule,
            teacher=teacher,
            device=device,
        )
        for part in parts
    ]
    batches = Batches(
        examples,
        preprocessing,
        seeds=tuple(dict.fromkeys(net.seed for net in nets)),
        batch_size=budget.batch_size,
        jitter_px=rule.jitter_px,
        flip=rule.flip,
        rows_of_epoch=rows_of_epoch,
        device=device,
    )
    checkpoint = None
    if checkpoints is not None:
        training = digest_of(
            {
                "architecture": architecture.model_dump(mode="json"),
                "nets": [
                    [net.arm, net.seed, net.objective.model_dump(mode="json"), net.member, net.group]
                    for net in nets
                ],
                "examples": examples.digests(),
                "logits_temperature": examples.logits_temperature,
                "classes": classes,
                "preprocessing": preprocessing.model_dump(mode="json"),
                "budget": budget.model_dump(mode="json"),
                "regularisation": rule.model_dump(mode="json"),
                "teacher": teacher.digest if teacher is not None else None,
                "initial": _digests_of_weights(initial or {}),
                "rows_of_first_epoch": batches.digest_of_rows() if rows_of_epoch is not None else None,
            }
        )
        checkpoint = CohortCheckpoint(checkpoints, training)
    rounds = Rounds(nets, parts, stacks, batches, budget, examples, refresh, checkpoint, checkpoint_every_s)
    rounds.train(on_epoch or _ignore, should_stop or _never)
    return rounds.trained()


def _apart(nets: Sequence[Net]) -> list[list[int]]:
    """Return the nets one by one, but for peers, who cannot be parted."""
    parts: dict[object, list[int]] = {}
    for index, net in enumerate(nets):
        key = index if net.group is None else (net.group, net.seed, net.objective)
        parts.setdefault(key, []).append(index)
    return list(parts.values())


def _check(
    nets: Sequence[Net],
    examples: Examples,
    rule: Regularisation,
    classes: int,
    *,
    teacher: bool,
    refreshed: bool,
) -> None:
    if not nets or len({(net.arm, net.seed) for net in nets}) != len(nets):
        raise ValueError("a cohort needs at least one net, and no two of the same arm and seed")
    if refreshed and examples.live is not None:
        raise ValueError("logits come live from a teacher or are refreshed from the nets, not both")
    taught = examples.teacher_logits is not None or examples.live is not None
    if (rule.jitter_px or rule.flip) and (taught or examples.parameters is not None):
        raise ValueError(
            "jitter and flips would show the nets other views than the teacher saw; store views instead"
        )
    for net in nets:
        objective = net.objective
        if objective.decoupled is not None and classes <= 2:
            raise DecoupledNeedsClasses(classes)
        if objective.needs_labels and examples.labels is None:
            raise ValueError(f"the objective of {net.arm} needs hard labels, and there are none")
        if objective.needs_features and not teacher:
            raise ValueError(f"the objective of {net.arm} needs a teacher's layers, and there is no teacher")
        if net.group is not None:
            peers = [peer for peer in nets if _apart([net, peer]) == [[0, 1]]]
            if len(peers) < 2:  # the net itself is one
                raise ValueError(f"{net.arm} of seed {net.seed} has no peer of its group and objective")
            if objective.logit_weight or objective.decoupled is not None or objective.standardise:
                raise ValueError("peers teach by soft targets; other terms of a teacher cannot be theirs")
        elif objective.needs_logits and not (taught or refreshed):
            raise ValueError(f"the objective of {net.arm} needs teacher logits, and there are none")


def _digests_of_weights(initial: Initial) -> list[list[str | int]]:
    return [
        [arm, seed, name, sha256_bytes(tensor.detach().cpu().contiguous().numpy().tobytes())]
        for (arm, seed), tensors in sorted(initial.items())
        for name, tensor in sorted(tensors.items())
    ]


def _ignore(_epoch: int, _epochs: int, _metrics: dict[str, float]) -> None:
    pass


def _never() -> bool:
    return False
