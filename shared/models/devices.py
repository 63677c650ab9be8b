"""Where to compute."""

import torch


def torch_device(device: str) -> torch.device:
    """Return the device to compute on: "auto" is the first CUDA device where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
