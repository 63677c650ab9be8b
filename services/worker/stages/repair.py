"""Class biases repaired after training: each net gets its own, found without a test label.

A net that never saw a class has learned that it never comes. Biases added to its last layer bring its mean
softmax mass back to the classes' shares (arXiv:1503.02531, section 3, where they were tuned on test images).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import BaseModel, JsonValue

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext
from shared.contracts.datasets import DatasetManifest
from shared.contracts.images import Preprocessing
from shared.contracts.jobs import Stage
from shared.contracts.training import BiasRepair
from shared.distillation.bias_repair import class_shares, find_biases, with_biases
from shared.distillation.cohort import TrainedNet
from shared.distillation.inference import net_logits
from shared.models.network import Network

_REPAIR = "repair.json"


class NetBiases(BaseModel):
    """What was added to one net's last layer, in the order of the classes."""

    arm: str
    seed: int
    biases: tuple[float, ...]


class Repair(BaseModel):
    """What the repair found: for how many images, to which shares, and the biases of each net."""

    images: int
    shares: tuple[float, ...]
    nets: tuple[NetBiases, ...]

    @property
    def biases(self) -> Mapping[tuple[str, int], torch.Tensor]:
        """The biases by arm and seed, float32."""
        return {(net.arm, net.seed): torch.tensor(net.biases) for net in self.nets}


def repair_biases(
    context: JobContext,
    asked: BiasRepair,
    network: Network,
    dataset: str,
    manifest: DatasetManifest,
    preprocessing: Preprocessing,
    trained_at: Path,
) -> Path:
    """Repair the nets of a train stage unless that was done before; return the repaired nets' folder.

    It is read as `trained_at` is, by `outcomes.load_nets`; the nets' validation accuracies are those after
    the repair. `load_repair` reads what was found.

    Raises:
        BiasRepairFailed: no biases give a net the shares, or a class has no share.
    """

    def build(directory: Path) -> None:
        nets = outcomes.load_nets(trained_at)
        context.progress(Stage.TRAIN, 0, len(nets), "nets")
        validation = context.store.datasets.load(dataset, "validation")
        assert validation.labels is not None, "checked before"
        labels = outcomes.tensor(validation.labels)
        held_back = outcomes.tensor(validation.images)
        images = held_back
        if asked.source == "unlabelled":
            # All training images, those that the transfer set lacks too; their labels are not looked at.
            images = outcomes.tensor(context.store.datasets.load(dataset, "train").images)
        shares = _shares(asked, labels, len(manifest.classes))
        repaired: list[TrainedNet] = []
        found: list[NetBiases] = []
        for done, net in enumerate(nets, start=1):
            biases = find_biases(net_logits(network, net.tensors, images, preprocessing), shares).float()
            answers = net_logits(network, net.tensors, held_back, preprocessing) + biases
            repaired.append(
                replace(
                    net,
                    tensors=with_biases(network, net.tensors, biases),
                    validation_accuracy=float((answers.argmax(-1) == labels).double().mean()),
                )
            )
            found.append(NetBiases(arm=net.arm, seed=net.seed, biases=tuple(biases.tolist())))
            context.progress(Stage.TRAIN, done, len(nets), "nets")
        outcomes.save_nets(directory, tuple(repaired))
        repair = Repair(images=len(images), shares=tuple(shares.tolist()), nets=tuple(found))
        outcomes.save(directory / _REPAIR, repair)

    inputs: dict[str, JsonValue] = {"train": trained_at.name, "bias_repair": asked.model_dump(mode="json")}
    return context.once(Stage.TRAIN, inputs, build)


def load_repair(repaired_at: Path) -> Repair:
    """Return what `repair_biases` found."""
    return outcomes.load(repaired_at / _REPAIR, Repair)


def _shares(asked: BiasRepair, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the share of each class, float64 with sum 1."""
    if asked.prior is not None:
        given: Sequence[float] = asked.prior
        shares = torch.tensor(given, dtype=torch.float64)
        return shares / shares.sum()
    if asked.source == "validation":
        return class_shares(labels, classes).double()
    return torch.full((classes,), 1 / classes, dtype=torch.float64)
