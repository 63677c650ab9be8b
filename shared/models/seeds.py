"""Random numbers that depend on names and numbers alone, never on what was drawn before.

A run that draws each epoch's order from (purpose, seed, epoch) can be cut anywhere and resumed, and a net
draws the same numbers whether it is trained alone or beside others.
"""

import hashlib

import torch


def mixed_seed(purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed from a purpose and numbers; other arguments give an unrelated seed."""
    text = "\0".join((purpose, *map(str, numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_of(purpose: str, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on the device, seeded by `mixed_seed`."""
    return torch.Generator(device=device).manual_seed(mixed_seed(purpose, *numbers))
