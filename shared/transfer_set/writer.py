"""Writes a transfer set shard by shard; what a killed writer left whole is not asked for again."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.artefacts.files import sha256_file, sweep_temporaries, write_atomic, write_once
from shared.artefacts.tensors import Array, read_tensors, tensors_to_bytes
from shared.errors import Corrupt, TeacherAnswerInvalid
from shared.transfer_set.format import (
    COLUMNS,
    MANIFEST,
    Shard,
    TransferSetInputs,
    TransferSetManifest,
    content_digest,
    image_digests,
    shard_file,
)
from shared.transfer_set.views import apply_shifts, view_shifts

LARGEST_LOGIT = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Batch:
    """What the teacher is asked for one shard of n rows."""

    rows: NDArray[np.int64]
    """Indices into the training split, n."""
    views: NDArray[np.int32]
    shifts: NDArray[np.int8]
    """Pixels down and to the right, n x 2."""
    images: NDArray[np.uint8]
    """The shifted images, n x H x W x C."""


class TransferSetWriter:
    """Fills one folder. Several may do so at once: of each shard the first stays, and it never changes."""

    def __init__(
        self,
        directory: Path,
        inputs: TransferSetInputs,
        *,
        images: NDArray[np.uint8],
        shard_rows: int = 8192,
    ) -> None:
        """Open or make the folder.

        Args:
            directory: `transfer_sets/<inputs.digest>`.
            inputs: what the set is made from.
            images: the training split, uint8 N x H x W x C.
            shard_rows: rows a shard, the unit of resuming.

        Raises:
            ValueError: there are more or fewer images than `inputs.rows`.
        """
        if len(images) != inputs.rows:
            raise ValueError(f"inputs speak of {inputs.rows} images, there are {len(images)}")
        self.directory = directory
        self.inputs = inputs
        self.total_rows = inputs.rows * inputs.spec.views
        self._images = images
        self._shard_rows = shard_rows
        directory.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(directory)

    @property
    def shards(self) -> int:
        """Number of shards of the whole set."""
        return -(-self.total_rows // self._shard_rows)

    def missing_shards(self) -> list[int]:
        """Return which shards are still to be written; a damaged one is removed and counts as missing."""
        return [number for number in range(self.shards) if not self._is_whole(number)]

    def rows_in(self, number: int) -> int:
        """Return how many rows a shard has."""
        return min(self._shard_rows, self.total_rows - number * self._shard_rows)

    def batch(self, number: int) -> Batch:
        """Return what to ask the teacher for one shard."""
        rows, views, shifts = self._rows(number)
        return Batch(rows, views, shifts, apply_shifts(self._images[rows], shifts))

    def write_shard(self, number: int, logits: Array) -> None:
        """Store the teacher's answer for `batch(number)`.

        What is stored is z = logits x temperature with the mean of each row taken off, as 16-bit floats:
        softmax(z / T) are the soft targets.

        Args:
            number: of the shard.
            logits: softened logits z/T as answered at `inputs.temperature`, n x classes.

        Raises:
            TeacherAnswerInvalid: another shape, a number that is not finite, or one beyond 16-bit floats.
            OSError: the disk is full; shards already there stay.
        """
        rows, views, shifts = self._rows(number)
        columns: dict[str, Array] = {
            "row": rows,
            "view": views,
            "shift": shifts,
            "image_digest": image_digests(self._images[rows]),
            "logits": self._zero_mean(logits, len(rows)),
        }
        metadata = {
            "format": str(self.inputs.format),
            "inputs": self.inputs.digest,
            "shard": str(number),
            "content": content_digest(columns),
        }
        data = tensors_to_bytes(columns, metadata)
        while not write_once(self.directory / shard_file(number), data):
            if self._is_whole(number):
                return  # another writer was first; its shard is as good as ours

    def finish(self) -> TransferSetManifest:
        """Write the manifest once all shards are there, and return it; doing it again changes nothing.

        Raises:
            ValueError: shards are missing.
        """
        if missing := self.missing_shards():
            raise ValueError(f"{len(missing)} of {self.shards} shards are missing, first {missing[0]}")
        shards = tuple(
            Shard(
                file=shard_file(number),
                rows=len(self._rows(number)[0]),
                sha256=sha256_file(self.directory / shard_file(number)),
            )
            for number in range(self.shards)
        )
        path = self.directory / MANIFEST
        manifest = TransferSetManifest(
            digest=self.inputs.digest, inputs=self.inputs, shards=shards, created_at=datetime.now(UTC)
        )
        try:
            present = TransferSetManifest.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            present = None
        if present is not None and present.model_copy(update={"created_at": manifest.created_at}) == manifest:
            return present
        write_atomic(path, manifest.model_dump_json(indent=2).encode())
        return manifest

    def _rows(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int8]]:
        """Return rows, views and shifts of a shard: view after view, each with all rows in order."""
        if not 0 <= number < self.shards:
            raise ValueError(f"shards are 0 to {self.shards - 1}, not {number}")
        begin = number * self._shard_rows
        places = np.arange(begin, min(begin + self._shard_rows, self.total_rows), dtype=np.int64)
        views, rows = np.divmod(places, self.inputs.rows)
        shifts = np.zeros((len(rows), 2), np.int8)
        for view in np.unique(views):
            chosen = views == view
            shifts[chosen] = view_shifts(self.inputs.spec, self.inputs.rows, int(view))[rows[chosen]]
        return rows, views.astype(np.int32), shifts

    def _zero_mean(self, logits: Array, rows: int) -> NDArray[np.float16]:
        expected = (rows, len(self.inputs.classes))
        if logits.shape != expected:
            raise TeacherAnswerInvalid(f"expected {expected} logits, the teacher answered {logits.shape}")
        if not np.isfinite(logits).all():
            raise TeacherAnswerInvalid("the teacher answered logits that are not finite")
        z = logits.astype(np.float64) * self.inputs.temperature
        z -= z.mean(axis=1, keepdims=True)
        largest = float(np.abs(z).max())
        if largest > LARGEST_LOGIT:
            raise TeacherAnswerInvalid(
                f"the teacher answered a logit of {largest:.3g} (mean taken off); "
                f"16-bit floats reach to {LARGEST_LOGIT:.0f}",
                remedy="Such a teacher is broken or needs its logits scaled: train it anew.",
            )
        return z.astype(np.float16)

    def _is_whole(self, number: int) -> bool:
        path = self.directory / shard_file(number)
        try:
            columns, metadata = read_tensors(path)
            rows, views, shifts = self._rows(number)
            whole = (
                set(columns) == set(COLUMNS)
                and metadata.get("inputs") == self.inputs.digest
                and metadata.get("content") == content_digest(columns)
                and np.array_equal(columns["row"], rows)
                and np.array_equal(columns["view"], views)
                and np.array_equal(columns["shift"], shifts)
            )
        except FileNotFoundError:
            return False
        except Corrupt:
            whole = False
        if not whole:
            # The manifest goes first: it must never speak for a shard that is not there.
            (self.directory / MANIFEST).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        return whole
