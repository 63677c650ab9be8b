"""Writes a transfer set shard by shard; what a killed writer left whole is not asked for again."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.files import sha256_file
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
    row_keys,
    shard_file,
)
from shared.transfer_set.known import KnownAnswers
from shared.transfer_set.places import FolderFiles, SetFiles
from shared.transfer_set.reader import read_manifest
from shared.transfer_set.selection import Selection
from shared.transfer_set.views import apply_view, view_flips, view_shifts

log = logging.getLogger(__name__)

LARGEST_LOGIT = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Batch:
    """What the teacher is to be asked for one shard: n rows of it, in order."""

    rows: NDArray[np.int64]
    """Indices into the training split, n."""
    views: NDArray[np.int32]
    shifts: NDArray[np.int8]
    """Pixels down and to the right, n x 2."""
    flips: NDArray[np.uint8]
    """1 where the image is mirrored, n."""
    images: NDArray[np.uint8]
    """The views themselves, n x H x W x C."""


@dataclass(frozen=True)
class Recalled:
    """What is stored of some rows, n, and what the teacher saw of them."""

    images: NDArray[np.uint8]
    """The views, n x H x W x C."""
    logits: NDArray[np.float16]
    """Zero-mean z, n x classes."""
    kept: NDArray[np.bool_]
    """Which of the logits are stored, n x classes; the others mean nothing."""


@dataclass(frozen=True)
class _Rows:
    """The rows of one shard, but for what the teacher says of them."""

    places: NDArray[np.int64]
    """Which of the selected images each is of."""
    rows: NDArray[np.int64]
    views: NDArray[np.int32]
    shifts: NDArray[np.int8]
    flips: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.rows)


class TransferSetWriter:
    """Fills one folder. Several may do so at once: of each shard the first stays, and it never changes."""

    def __init__(
        self,
        files: SetFiles | Path,
        inputs: TransferSetInputs,
        *,
        images: NDArray[np.uint8],
        selection: Selection,
        known: KnownAnswers | None = None,
        shard_rows: int = 8192,
    ) -> None:
        """Clear away what killed writers left.

        Args:
            files: of the set of these inputs, or the folder in which they are.
            inputs: what the set is made from.
            images: the training split, uint8 N x H x W x C.
            selection: which of them the set takes.
            known: answers that need not be asked for again.
            shard_rows: rows a shard, the unit of resuming.

        Raises:
            ValueError: more or fewer images are selected than `inputs.rows`.
        """
        if len(selection.rows) != inputs.rows:
            raise ValueError(f"inputs speak of {inputs.rows} images, {len(selection.rows)} are selected")
        self.files = FolderFiles(files) if isinstance(files, Path) else files
        self.inputs = inputs
        self.total_rows = inputs.rows * inputs.spec.views
        self._images = images
        self._selection = selection
        self._known = known
        self._shard_rows = shard_rows
        self.rebuilt: list[str] = []
        """Names of shards that were there, damaged, and were removed to be written anew."""
        self.files.sweep()

    @property
    def directory(self) -> Path:
        """The folder of this machine that has the files, or copies of them."""
        return self.files.directory

    @property
    def shards(self) -> int:
        """Number of shards of the whole set."""
        return -(-self.total_rows // self._shard_rows)

    def missing_shards(self, among: Iterable[int] | None = None) -> list[int]:
        """Return which shards are still to be written; a damaged one is removed and counts as missing.

        Args:
            among: the shards that are looked at; None looks at all.
        """
        looked_at = range(self.shards) if among is None else among
        return [number for number in looked_at if not self._is_whole(number)]

    def first_row(self, number: int) -> int:
        """Return the number in the whole set of a shard's first row."""
        return number * self._shard_rows

    def rows_in(self, number: int) -> int:
        """Return how many rows a shard has."""
        return min(self._shard_rows, self.total_rows - number * self._shard_rows)

    def rows_to_ask(self, number: int) -> int:
        """Return for how many rows of a shard the teacher has to be asked."""
        return int((~self._answers(self._rows(number))[0]).sum())

    def known_places(self, number: int) -> NDArray[np.int64]:
        """Return which rows of a shard that is not written have an answer in other sets, rising."""
        return np.flatnonzero(self._answers(self._rows(number))[0])

    def recall(self, number: int, places: NDArray[np.int64]) -> Recalled:
        """Return views and stored answers of some rows of a shard, from the shard where it is written.

        Args:
            number: of the shard.
            places: of the rows in it; where it is not written, among `known_places`.

        Raises:
            Corrupt: the shard cannot be read.
        """
        shard = self._rows(number)
        try:
            logits = read_tensors(self.files.fetch(shard_file(number)))[0]["logits"][places]
        except FileNotFoundError:
            logits = self._answers(shard)[1][places]
        images = apply_view(self._images[shard.rows[places]], shard.shifts[places], shard.flips[places])
        return Recalled(images, logits, np.ones(logits.shape, np.bool_))

    def batch(self, number: int) -> Batch:
        """Return what to ask the teacher for one shard: the rows whose answer is not known yet."""
        shard = self._rows(number)
        asked = ~self._answers(shard)[0]
        rows, shifts, flips = shard.rows[asked], shard.shifts[asked], shard.flips[asked]
        images = apply_view(self._images[rows], shifts, flips)
        return Batch(rows, shard.views[asked], shifts, flips, images)

    def write_shard(self, number: int, logits: Array) -> None:
        """Store the teacher's answer for `batch(number)`.

        What is stored is z = logits x temperature with the mean of each row taken off, as 16-bit floats:
        softmax(z / T) are the soft targets.

        Args:
            number: of the shard.
            logits: softened logits z/T as answered at `inputs.temperature`, n x classes. Answers known before
                are stored as they were.

        Raises:
            TeacherAnswerInvalid: another shape, a number that is not finite, or one beyond 16-bit floats.
            StoreFull: nothing more fits; shards already there stay.
        """
        shard = self._rows(number)
        known, answers = self._answers(shard)
        answers[~known] = self._zero_mean(logits, int((~known).sum()))
        columns: dict[str, Array] = {**self._known_columns(shard), "logits": answers}
        metadata = {
            "format": str(self.inputs.format),
            "inputs": self.inputs.digest,
            "shard": str(number),
            "content": content_digest(columns),
        }
        data = tensors_to_bytes(columns, metadata)
        while not self.files.put_once(shard_file(number), data):
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
                rows=self.rows_in(number),
                sha256=sha256_file(self.files.fetch(shard_file(number))),
            )
            for number in range(self.shards)
        )
        manifest = TransferSetManifest(
            digest=self.inputs.digest, inputs=self.inputs, shards=shards, created_at=datetime.now(UTC)
        )
        try:
            present = read_manifest(self.files)
        except (FileNotFoundError, Corrupt):
            present = None
        if present is not None and present.model_copy(update={"created_at": manifest.created_at}) == manifest:
            return present
        self.files.put(MANIFEST, manifest.model_dump_json(indent=2).encode())
        return manifest

    @cached_property
    def _digests(self) -> NDArray[np.uint8]:
        """Digests of the selected images, rows x 16."""
        return image_digests(self._images[row] for row in self._selection.rows)

    def _rows(self, number: int) -> _Rows:
        """Return the rows of a shard: view after view, each with all selected images in order."""
        if not 0 <= number < self.shards:
            raise ValueError(f"shards are 0 to {self.shards - 1}, not {number}")
        begin = number * self._shard_rows
        views, places = np.divmod(
            np.arange(begin, min(begin + self._shard_rows, self.total_rows), dtype=np.int64), self.inputs.rows
        )
        rows = self._selection.rows[places]
        shifts = np.zeros((len(rows), 2), np.int8)
        flips = np.zeros(len(rows), np.uint8)
        for view in np.unique(views):
            of_view = views == view
            # Drawn for the whole split, so that an image has the same views in whichever part of it.
            spec, images = self.inputs.spec, len(self._images)
            shifts[of_view] = view_shifts(spec, images, int(view))[rows[of_view]]
            flips[of_view] = view_flips(spec, images, int(view))[rows[of_view]]
        return _Rows(places, rows, views.astype(np.int32), shifts, flips)

    def _known_columns(self, shard: _Rows) -> dict[str, Array]:
        return {
            "row": shard.rows,
            "labelled": self._selection.labelled[shard.places].astype(np.uint8),
            "view": shard.views,
            "flip": shard.flips,
            "shift": shard.shifts,
            "image_digest": self._digests[shard.places],
        }

    def _answers(self, shard: _Rows) -> tuple[NDArray[np.bool_], NDArray[np.float16]]:
        """Return for which rows of a shard an answer is known, and the answers, 0 for the others."""
        if self._known is None:
            classes = len(self.inputs.classes)
            return np.zeros(len(shard), np.bool_), np.zeros((len(shard), classes), np.float16)
        return self._known.find(row_keys(self._digests[shard.places], shard.shifts, shard.flips))

    def _zero_mean(self, logits: Array, rows: int) -> NDArray[np.float16]:
        expected = (rows, len(self.inputs.classes))
        if logits.shape != expected:
            raise TeacherAnswerInvalid(f"expected {expected} logits, the teacher answered {logits.shape}")
        if not np.isfinite(logits).all():
            raise TeacherAnswerInvalid("the teacher answered logits that are not finite")
        z = logits.astype(np.float64) * self.inputs.temperature
        z -= z.mean(axis=1, keepdims=True)
        largest = float(np.abs(z).max(initial=0))
        if largest > LARGEST_LOGIT:
            raise TeacherAnswerInvalid(
                f"the teacher answered a logit of {largest:.3g} (mean taken off); "
                f"16-bit floats reach to {LARGEST_LOGIT:.0f}",
                remedy="Such a teacher is broken or needs its logits scaled: train it anew.",
            )
        return z.astype(np.float16)

    def _is_whole(self, number: int) -> bool:
        name = shard_file(number)
        try:
            columns, metadata = read_tensors(self.files.fetch(name))
            whole = (
                set(columns) == set(COLUMNS)
                and metadata.get("inputs") == self.inputs.digest
                and metadata.get("content") == content_digest(columns)
                and all(
                    np.array_equal(columns[name], column)
                    for name, column in self._known_columns(self._rows(number)).items()
                )
            )
        except FileNotFoundError:
            return False
        except Corrupt:
            whole = False
        if not whole:
            # The manifest goes first: it must never speak for a shard that is not there.
            self.files.remove(MANIFEST)
            self.files.remove(name)
            self.rebuilt.append(name)
            log.warning("damaged shard removed", extra={"digest": self.inputs.digest, "shard": name})
        return whole
