"""Weights from outside, brought into the tensors of a network of ours: safetensors in, float32 out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from torch import Tensor

from shared.errors import InvalidModelFiles
from shared.models.checkpoints import read_tensors
from shared.models.network import Network

SHOWN: Final = 8
"""Tensors that are named one by one."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the floating-point tensors of a safetensors file as float32.

    Whole numbers are left out: they count batches or number positions, and no answer hangs on a count.

    Raises:
        InvalidModelFiles: the file is damaged.
    """
    try:
        tensors = read_tensors(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InvalidModelFiles(f"it cannot be read: {error}", file=path.name) from error
    return as_float32(tensors)


def as_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the floating-point ones among the tensors, in float32."""
    return {name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()}


def need_fit(tensors: Mapping[str, Tensor], network: Network, file: str) -> dict[str, Tensor]:
    """Return the tensors of one net, after comparing their names and shapes with the network's.

    A leading dimension of 1 in all of them is dropped: so a teacher of one net is stored.

    Raises:
        InvalidModelFiles: some are missing, unknown or of another shape; they are named.
    """
    expected = network.shapes
    stacked = {name: (1, *shape) for name, shape in expected.items()}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} == stacked:
        return {name: tensor[0] for name, tensor in tensors.items()}
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    other = [
        f"{name} is {_shape(tuple(tensors[name].shape))} and should be {_shape(expected[name])}"
        for name in sorted(expected.keys() & tensors.keys())
        if tuple(tensors[name].shape) != expected[name]
    ]
    wrong = [
        *_listed("missing", missing),
        *_listed("not known", unknown),
        *_listed("of another shape", other),
    ]
    if not wrong:
        return dict(tensors)
    bias = network.head[1]
    if bias in tensors and bias in expected and tensors[bias].shape != expected[bias]:
        answered = tensors[bias].shape[-1]
        wrong.insert(
            0, f"{network.classes} classes are named, and the net answers {answered} numbers an image"
        )
    raise InvalidModelFiles(
        "; ".join(wrong),
        file=file,
        remedy="Give the architecture, the image size and the classes that the net was trained with.",
    )


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{len(names)} tensors are {what}: {', '.join(names[:SHOWN])}{more}"]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
