"""Dropout: which units stay at a step follows from the net's seed, the epoch and the step alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from shared.contracts.training import Regularisation
from shared.models.seeds import mixed_seed


class Dropout:
    """Draws the factors of the units that enter each place where dropout acts.

    Args:
        rule: the shares dropped, of pixels and of hidden units.
        units: how many enter each place, pixels first (`Network.dropout_units`).
        device: where the factors are wanted.
    """

    def __init__(self, rule: Regularisation, units: Sequence[int], device: torch.device) -> None:
        self._shares = [rule.input_dropout, *[rule.hidden_dropout] * (len(units) - 1)][: len(units)]
        self._units = tuple(units)
        self._device = device
        # One generator, seeded anew for each net and step: no state to carry over a checkpoint.
        self._generator = torch.Generator(device=device)

    def factors(self, seeds: Sequence[int], rows: int, epoch: int, step: int) -> list[Tensor | None] | None:
        """Return for each place nets x rows x units of 0 or 1 / share kept, or None where nothing drops."""
        if not any(self._shares):
            return None
        masks = [self._drawn(seed, epoch, step, rows) for seed in seeds]
        return [
            torch.stack([mask[place] for mask in masks]).to(torch.float32) / (1 - share) if share else None
            for place, share in enumerate(self._shares)
        ]

    def _drawn(self, seed: int, epoch: int, step: int, rows: int) -> tuple[Bool[Tensor, "batch _"], ...]:
        """Return which units stay, drawn from 16 random bits each.

        One draw of whole words for all places is some ten times faster on a CPU than `bernoulli_`; a share
        is exact to 1/65,536.
        """
        self._generator.manual_seed(mixed_seed("dropout", seed, epoch, step))
        wanted = rows * sum(self._units)
        words = torch.empty(-(-wanted // 4), dtype=torch.int64, device=self._device)
        # Without bounds the sign bit would never be set.
        bits = words.random_(-(2**63), None, generator=self._generator).view(torch.int16)[:wanted]
        parts = torch.split(bits, [rows * units for units in self._units])
        return tuple(
            (part >= round(share * 65_536) - 32_768).view(rows, units)
            for part, share, units in zip(parts, self._shares, self._units, strict=True)
        )
