"""Checkpoints on disk: whole or not there, checked when read, the newest two kept.

A checkpoint is `<number>.json`, which says where training was, and `<number>-<digest>.safetensors`, all the
numbers it goes on from. The JSON file is written last, and names the other by its digest: two processes that
write into one folder, such as one that was paused beyond its lease, never share a file of weights.
"""

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue, ValidationError

from shared.artefacts.files import digest_of, sha256_bytes, sha256_file, sweep_temporaries, write_atomic
from shared.contracts.base import Contract, Digest

log = logging.getLogger(__name__)

_KEPT = 2
_NAME = re.compile(r"^(\d{8})(?:\.json|-[0-9a-f]{16}\.safetensors)$")


class _Manifest(Contract):
    state: dict[str, JsonValue]
    weights: Digest
    digest: Digest
    """Of the other two: a bit that flips in a count of epochs would change what training becomes."""


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole. `name` is its folder's and its number, `weights` a safetensors file."""

    name: str
    state: dict[str, JsonValue]
    weights: Path


class CheckpointFolder:
    """The checkpoints of one training in a folder of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, state: dict[str, JsonValue], weights: bytes) -> None:
        """Write a checkpoint and remove all but the newest two, and what killed writers left.

        Raises:
            OSError: the disk is full; the checkpoints before are untouched, and of this one nothing is left.
            ValueError: a number in the state is not finite.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(self._directory)
        manifest = _signed(state, sha256_bytes(weights))
        numbers = self._numbers()
        number = numbers[-1] + 1 if numbers else 1
        file = self._weights(number, manifest.weights)
        try:
            write_atomic(file, weights)
            write_atomic(self._manifest(number), manifest.model_dump_json().encode())
        except OSError:
            # As large as it is, it would stand in the way of whoever makes room.
            if not self._manifest(number).exists():
                file.unlink(missing_ok=True)
            raise
        self._prune([*numbers, number][-_KEPT:])

    def newest(
        self, accept: Callable[[dict[str, JsonValue]], bool] = lambda _: True, *, compare: bool = True
    ) -> Checkpoint | None:
        """Return the newest whole checkpoint whose state is accepted, or None where there is none.

        Without `compare` its weights need only be there: they are not read, which can take long.
        """
        for number in reversed(self._numbers()):
            manifest = self._read(number, compare)
            if manifest is not None and accept(manifest.state):
                name = f"{self._directory.name}/{number:08d}"
                return Checkpoint(name, manifest.state, self._weights(number, manifest.weights))
        return None

    def _read(self, number: int, compare: bool) -> _Manifest | None:
        """Return the manifest of a whole checkpoint; one that is not gives way to the one before."""
        try:
            manifest = _Manifest.model_validate_json(self._manifest(number).read_bytes())
            file = self._weights(number, manifest.weights)
            file.stat()
            weights = sha256_file(file) if compare else manifest.weights
        except (ValidationError, OSError) as error:
            self._refuse(number, str(error))
            return None
        if _signed(manifest.state, weights) != manifest:
            self._refuse(number, "its digest is not the one that it states")
            return None
        return manifest

    def _refuse(self, number: int, reason: str) -> None:
        log.warning(
            "a checkpoint is not whole",
            extra={"checkpoint": str(self._manifest(number)), "reason": reason},
        )

    def _prune(self, kept: list[int]) -> None:
        for path in self._directory.iterdir():
            match = _NAME.match(path.name)
            # A higher number is that of somebody who writes beside us.
            if match and int(match[1]) < kept[0]:
                path.unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        """Return the numbers of the manifests, the newest last."""
        try:
            names = [path.name for path in self._directory.iterdir()]
        except FileNotFoundError:
            return []
        found = (_NAME.match(name) for name in names if name.endswith(".json"))
        return sorted(int(match[1]) for match in found if match)

    def _manifest(self, number: int) -> Path:
        return self._directory / f"{number:08d}.json"

    def _weights(self, number: int, digest: str) -> Path:
        return self._directory / f"{number:08d}-{digest[:16]}.safetensors"


def _signed(state: dict[str, JsonValue], weights: str) -> _Manifest:
    return _Manifest(state=state, weights=weights, digest=digest_of({"state": state, "weights": weights}))


def last_checkpoint(folder: Path, *, compare: bool = True) -> Checkpoint | None:
    """Return the whole checkpoint that was written last in any folder of `folder`, or None.

    A job may train several times; a folder each is below that of its checkpoints. Without `compare` only
    manifests are read, and weights need only be there: for who must answer at once.

    While the job trains, what is found may be gone a moment later: newer ones take its place.
    """
    written: dict[Path, float] = {}
    for directory, _, names in os.walk(folder):
        for manifest in (Path(directory, name) for name in names if name.endswith(".json")):
            with suppress(FileNotFoundError):
                written[manifest.parent] = max(written.get(manifest.parent, 0.0), manifest.stat().st_mtime)
    for training in sorted(written, key=lambda one: written[one], reverse=True):
        found = CheckpointFolder(training).newest(compare=compare)
        if found is not None:
            return found
    return None


def words_on_last_checkpoint(folder: Path, *, compare: bool = True) -> str:
    """Say where the last good checkpoint is, as the reason of a failure ends; see `last_checkpoint`."""
    found = last_checkpoint(folder, compare=compare)
    if found is None:
        return "no checkpoint was made"
    return (
        f"the last good checkpoint is {found.name}, after {found.state.get('epoch')} epochs and "
        f"{found.state.get('step')} steps"
    )
