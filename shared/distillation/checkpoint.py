"""Checkpoints of a cohort in training: whole or not there, checked when read, the newest two kept."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from torch import Tensor

from shared.artefacts.files import sha256_bytes, sha256_file, write_atomic
from shared.contracts.base import Contract, Digest
from shared.distillation.records import NetRecord
from shared.models.checkpoints import read_tensors, to_bytes

_KEPT = 2
_NAME = re.compile(r"^(\d{8})\.json$")


class CohortState(Contract):
    """Where training is. Random numbers follow from seed, epoch and step, so no generator has a state."""

    format: Literal[2] = 2
    training: Digest
    """Of all that the training follows from; a checkpoint of another training is none."""
    epoch: int
    """Epochs done."""
    step: int
    """Steps done of the epoch after those."""
    seconds: float
    """Spent so far."""
    nets: tuple[NetRecord, ...]


class _Manifest(Contract):
    state: CohortState
    weights_sha256: Digest


@dataclass(frozen=True)
class CohortCheckpoint:
    """The checkpoints of one training in a folder of their own: `<number>.safetensors` and `<number>.json`.

    The JSON file is written last and holds the digest of the other, so a pair is whole exactly if they agree.
    """

    directory: Path
    training: str

    def save(self, state: CohortState, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint and remove all but the newest two.

        Raises:
            OSError: the disk is full; the checkpoints before are untouched.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        numbers = self._numbers()
        number = max(numbers, default=0) + 1
        weights = to_bytes(tensors)
        write_atomic(self._file(number, "safetensors"), weights)
        manifest = _Manifest(state=state, weights_sha256=sha256_bytes(weights))
        write_atomic(self._file(number, "json"), manifest.model_dump_json().encode())
        for old in sorted(numbers)[: 1 - _KEPT]:
            self._file(old, "json").unlink(missing_ok=True)
            self._file(old, "safetensors").unlink(missing_ok=True)

    def newest(self) -> tuple[CohortState, dict[str, Tensor]] | None:
        """Return the newest whole checkpoint of this training, or None where there is none."""
        for number in sorted(self._numbers(), reverse=True):
            weights = self._file(number, "safetensors")
            try:
                manifest = _Manifest.model_validate_json(self._file(number, "json").read_bytes())
                whole = sha256_file(weights) == manifest.weights_sha256
            except (ValidationError, FileNotFoundError):
                continue  # an older one may be whole; without any, training starts anew
            if whole and manifest.state.training == self.training:
                return manifest.state, read_tensors(weights)
        return None

    def _numbers(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        found = (_NAME.match(path.name) for path in self.directory.iterdir())
        return [int(match[1]) for match in found if match]

    def _file(self, number: int, suffix: str) -> Path:
        return self.directory / f"{number:08d}.{suffix}"
