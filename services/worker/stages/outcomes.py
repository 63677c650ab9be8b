"""How stages hand their outcomes to each other: contracts as JSON, nets as safetensors, in plain files."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import BaseModel, TypeAdapter

from shared.artefacts.files import write_atomic
from shared.artefacts.tensors import Array
from shared.contracts.reports import TrainingCurve
from shared.distillation.cohort import Arm, TrainedNet
from shared.models.checkpoints import read_tensors, to_bytes

ModelT = TypeVar("ModelT", bound=BaseModel)


class _NetOutcome(BaseModel):
    arm: Arm
    seed: int
    best_epoch: int
    validation_accuracy: float | None
    curve: TrainingCurve


_NetOutcomes = TypeAdapter(list[_NetOutcome])


def save(path: Path, value: BaseModel) -> None:
    """Write a contract as JSON."""
    write_atomic(path, value.model_dump_json(indent=2).encode())


def load(path: Path, model: type[ModelT]) -> ModelT:
    """Read a contract from JSON."""
    return model.model_validate_json(path.read_bytes())


def save_nets(directory: Path, nets: tuple[TrainedNet, ...]) -> None:
    """Write trained nets: `nets.safetensors` with tensors named arm/seed/name, and `nets.json`."""
    tensors = {f"{net.arm}/{net.seed}/{name}": tensor for net in nets for name, tensor in net.tensors.items()}
    write_atomic(directory / "nets.safetensors", to_bytes(tensors))
    outcomes = [
        _NetOutcome(
            arm=net.arm,
            seed=net.seed,
            best_epoch=net.best_epoch,
            validation_accuracy=net.validation_accuracy,
            curve=net.curve,
        )
        for net in nets
    ]
    write_atomic(directory / "nets.json", _NetOutcomes.dump_json(outcomes, indent=2))


def load_nets(directory: Path) -> list[TrainedNet]:
    """Read trained nets back, in the order they were saved."""
    tensors = read_tensors(directory / "nets.safetensors")
    nets = []
    for outcome in _NetOutcomes.validate_json((directory / "nets.json").read_bytes()):
        prefix = f"{outcome.arm}/{outcome.seed}/"
        nets.append(
            TrainedNet(
                arm=outcome.arm,
                seed=outcome.seed,
                tensors={
                    name.removeprefix(prefix): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(prefix)
                },
                best_epoch=outcome.best_epoch,
                validation_accuracy=outcome.validation_accuracy,
                curve=outcome.curve,
            )
        )
    return nets


def tensor(array: Array) -> torch.Tensor:
    """Return a numpy array as a tensor of its own memory: stored arrays are read-only maps of a file."""
    return torch.from_numpy(np.array(array))
