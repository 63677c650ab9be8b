"""Where teachers answer: one forward pass for several requests, each at its own temperature."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from services.teacher.batching import Part
from shared.models.ensemble import StackedEnsemble, merge_logits


def device_name(device: torch.device) -> str:
    """Return the device in words: `cpu`, or `cuda` with the name of the card."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def answer(ensemble: StackedEnsemble, parts: Sequence[Part]) -> list[NDArray[np.float32]]:
    """Return the softened logits z/T of each part, rows with zero mean; one forward pass for all.

    The members' logits do not depend on T: only the merging is done again for each T that occurs.
    """
    order = sorted(range(len(parts)), key=lambda index: parts[index].temperature)
    members = ensemble.member_logits(_to_device([parts[index].images for index in order], ensemble.device))
    merged = []
    start = stop = 0
    for position, index in enumerate(order):
        stop += len(parts[index].images)
        temperature = parts[index].temperature
        if position + 1 == len(order) or parts[order[position + 1]].temperature != temperature:
            merged.append(merge_logits(members[:, start:stop], temperature=temperature, merge=ensemble.merge))
            start = stop
    rows = torch.cat(merged).cpu().numpy()  # the one place where the CPU waits for the device
    answers: list[NDArray[np.float32]] = [rows[:0]] * len(parts)
    start = 0
    for index in order:
        stop = start + len(parts[index].images)
        answers[index] = rows[start:stop]
        start = stop
    return answers


def _to_device(images: Sequence[NDArray[np.uint8]], device: torch.device) -> torch.Tensor:
    """Return all images in one tensor; by way of pinned memory, so that the copy runs aside, on CUDA."""
    rows = sum(len(part) for part in images)
    # Made writable here: what came in a request is a view on its bytes.
    joined = torch.empty((rows, *images[0].shape[1:]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.concatenate(images, out=joined.numpy())
    return joined.to(device, non_blocking=True)
