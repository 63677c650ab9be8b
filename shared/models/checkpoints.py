"""Weights as named tensors: between torch and numpy, between nets and stacks, to and from safetensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return the tensors as numpy arrays in main memory."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}


def from_arrays(arrays: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return numpy arrays as tensors on the device; the arrays are copied, not shared."""
    return {name: torch.tensor(array, device=device) for name, array in arrays.items()}


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the tensors as one safetensors file."""
    return save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Whoever calls has compared its digest before."""
    return load_file(path, device=str(device))


def stack(nets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the nets' tensors side by side on a new leading dimension."""
    return {name: torch.stack([net[name] for net in nets]) for name in nets[0]}


def unstack(stacked: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return each net's tensors, as views."""
    members = next(iter(stacked.values())).shape[0]
    return [{name: tensor[member] for name, tensor in stacked.items()} for member in range(members)]


def net_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's weights and buffers, not copied.

    Whole numbers are left out: they count batches or number positions, and no answer hangs on a count.
    """
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Put a net's tensors into the module, names and shapes all matching, and return it ready to evaluate."""
    whole_numbers = {
        name: tensor for name, tensor in module.state_dict().items() if not tensor.is_floating_point()
    }
    module.load_state_dict({**whole_numbers, **tensors}, strict=True)
    return module.eval()
