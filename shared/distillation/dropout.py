"""Dropout: which units stay at a step follows from the net's seed, the epoch and the step alone."""

from collections.abc import Sequence

import torch
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
        drawn = {seed: self._drawn(seed, epoch, step, rows) for seed in dict.fromkeys(seeds)}
        return [
            self._stacked([drawn[seed][place] for seed in seeds]) if share else None
            for place, share in enumerate(self._shares)
        ]

    def _drawn(self, seed: int, epoch: int, step: int, rows: int) -> list[Tensor]:
        """Return the factors of one net, from 8 random bits a unit.

        One draw of whole words for all places is some ten times faster on a CPU than `bernoulli_`. A share
        is taken to the nearest 1/256, and units are scaled by the share that is then kept.
        """
        self._generator.manual_seed(mixed_seed("dropout", seed, epoch, step))
        units = [count if share else 0 for count, share in zip(self._units, self._shares, strict=True)]
        words = torch.empty(-(-rows * sum(units) // 8), dtype=torch.int64, device=self._device)
        # Without bounds the sign bit would never be set.
        drawn = words.random_(-(2**63), None, generator=self._generator).view(torch.uint8)
        parts = torch.split(drawn[: rows * sum(units)], [rows * count for count in units])
        factors = []
        for part, share, count in zip(parts, self._shares, units, strict=True):
            dropped = min(max(round(share * 256), 1), 255)
            # 1 where the byte is `dropped` or above. Arithmetic on bytes is ten times faster than comparing.
            stays = part.clamp_(min=dropped - 1).sub_(dropped - 1).clamp_(max=1)
            factors.append(stays.to(torch.float32).mul_(256 / (256 - dropped)).view(rows, count))
        return factors

    @staticmethod
    def _stacked(nets: list[Tensor]) -> Tensor:
        return nets[0].unsqueeze(0) if len(nets) == 1 else torch.stack(nets)
