"""Taught nets against their untaught twins on the test split, for the evaluate stage of several kinds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from shared.contracts.evaluation import Comparison, Evaluation, NetFigures
from shared.contracts.images import Preprocessing
from shared.distillation.cohort import TrainedNet
from shared.distillation.evaluation import evaluate, in_short
from shared.distillation.inference import net_logits
from shared.distillation.verdict import compare
from shared.models.network import Network

Logits = Mapping[tuple[str, int], torch.Tensor]
"""Of each net by arm and seed, rows x classes."""


class Twins(BaseModel):
    """Taught against untaught on the test split."""

    served_seed: int
    """Whose taught net has the best validation accuracy; the first of equals."""
    taught: Evaluation
    untaught: Evaluation
    """Of the served seed, as `taught`."""
    comparison: Comparison
    nets: tuple[NetFigures, ...]


def logits_of(
    network: Network,
    nets: Sequence[TrainedNet],
    images: torch.Tensor,
    preprocessing: Preprocessing,
    on_net: Callable[[int], None],
) -> Logits:
    """Return what each net says of the images; `on_net` is told how many have answered."""
    logits = {}
    for done, net in enumerate(nets, start=1):
        logits[net.arm, net.seed] = net_logits(network, net.tensors, images, preprocessing)
        on_net(done)
    return logits


def evaluate_twins(
    nets: Sequence[TrainedNet],
    logits: Logits,
    labels: torch.Tensor,
    classes: Sequence[str],
    seeds: Sequence[int],
    teacher_logits: torch.Tensor | None,
) -> Twins:
    """Return the figures of nets of the arms `taught` and `untaught`, and the verdict between them.

    Args:
        nets: a taught and an untaught one of each seed.
        logits: what they say of the test images, at T = 1.
        labels: the true classes.
        classes: their names.
        seeds: in the order of the comparison.
        teacher_logits: what the teacher says of the same images, where there is one to agree with.
    """
    teacher_classes = teacher_logits.argmax(-1) if teacher_logits is not None else None

    def agreement(of: torch.Tensor) -> float | None:
        return (
            float((of.argmax(-1) == teacher_classes).double().mean()) if teacher_classes is not None else None
        )

    def correct(arm: str) -> NDArray[np.bool_]:
        return np.stack([(logits[arm, seed].argmax(-1) == labels).numpy() for seed in seeds])

    taught = [net for net in nets if net.arm == "taught"]
    # Validation decides which seed is served.
    served = max(taught, key=lambda net: net.validation_accuracy or 0.0).seed
    evaluations = {key: evaluate(of, labels, classes) for key, of in logits.items()}
    return Twins(
        served_seed=served,
        taught=evaluations["taught", served],
        untaught=evaluations["untaught", served],
        comparison=compare(
            correct("taught"),
            correct("untaught"),
            seeds=seeds,
            agreements=[agreement(logits["taught", seed]) for seed in seeds],
        ),
        nets=tuple(
            in_short(
                evaluations[net.arm, net.seed],
                net.arm,
                net.seed,
                agreement=agreement(logits[net.arm, net.seed]),
                validation_accuracy=net.validation_accuracy,
            )
            for net in nets
        ),
    )
