"""Writes a transfer set shard by shard; what a killed writer left whole is not asked for again."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.files import sha256_bytes, sha256_file
from shared.artefacts.tensors import Array, read_tensors, tensors_to_bytes
from shared.contracts.transfer_sets import TopKError
from shared.errors import Corrupt
from shared.transfer_set.answers import empty_answers, encode
from shared.transfer_set.format import (
    MANIFEST,
    Shard,
    TransferSetInputs,
    TransferSetManifest,
    answer_columns,
    content_digest,
    default_shard_rows,
    has_columns,
    image_digests,
    parameter_columns,
    row_keys,
    shard_file,
)
from shared.transfer_set.known import KnownAnswers
from shared.transfer_set.places import FolderFiles, SetFiles
from shared.transfer_set.reader import read_manifest
from shared.transfer_set.selection import Selection
from shared.transfer_set.topk import logits_of
from shared.transfer_set.views import ViewParameters, apply_views, view_parameters

log = logging.getLogger(__name__)

_SHARDS_AT_HAND = 4
"""Of which the rows are kept, as each is looked at several times: about 70 bytes a row."""


@dataclass(frozen=True)
class Batch:
    """Rows of one shard, in order, that the teacher is to be asked about."""

    rows: NDArray[np.int64]
    """Indices into the training split, n."""
    views: NDArray[np.int32]
    parameters: ViewParameters
    """How the n views are made."""
    split: NDArray[np.uint8]
    """The training split that they are views of."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """The views themselves, n x H x W x C, made anew each time."""
        return self.views_of(0, len(self.rows))

    def views_of(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Return the views from one row up to another: those of a whole shard may be large."""
        part = slice(begin, end)
        return apply_views(self.split[self.rows[part]], self.parameters[part])


@dataclass(frozen=True)
class Recalled:
    """Views whose answers are stored."""

    images: NDArray[np.uint8]
    """n x H x W x C."""
    logits: NDArray[np.float16]
    """n x classes."""
    kept: NDArray[np.bool_]
    """Which of the logits are the teacher's, n x classes; the others stand for the rest."""


@dataclass(frozen=True)
class _Rows:
    """The rows of one shard, but for what the teacher says of them."""

    rows: NDArray[np.int64]
    labelled: NDArray[np.bool_]
    views: NDArray[np.int32]
    parameters: ViewParameters
    digests: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.rows)


class TransferSetWriter:
    """Fills one transfer set. Several may do so at once: of each shard the first stays, and never changes.

    What is kept in memory does not grow with the set, but for a few hundred bytes a shard.
    """

    def __init__(
        self,
        files: SetFiles | Path,
        inputs: TransferSetInputs,
        *,
        images: NDArray[np.uint8],
        selection: Selection,
        known: KnownAnswers | None = None,
        shard_rows: int | None = None,
    ) -> None:
        """Clear away what killed writers left.

        Args:
            files: of the set of these inputs, or the folder in which they are.
            inputs: what the set is made from.
            images: the training split, uint8 N x H x W x C; it may be mapped from a file.
            selection: which of them the set takes.
            known: answers that need not be asked for again.
            shard_rows: rows a shard, the unit of resuming; None is `default_shard_rows`.

        Raises:
            ValueError: more or fewer images are selected than `inputs.rows`, or they are of another size.
        """
        if len(selection.rows) != inputs.rows:
            raise ValueError(f"inputs speak of {inputs.rows} images, {len(selection.rows)} are selected")
        size = inputs.input.height, inputs.input.width, inputs.input.channels
        if images.shape[1:] != size:
            raise ValueError(f"inputs speak of images of {size}, these are of {images.shape[1:]}")
        self.files = FolderFiles(files) if isinstance(files, Path) else files
        self.inputs = inputs
        self.total_rows = inputs.total_rows
        self.rebuilt: list[str] = []
        """Names of shards that were there, damaged, and were removed to be written anew."""
        self._images = images
        self._selection = selection
        self._known = known
        self._shard_rows = shard_rows or default_shard_rows(inputs)
        self._whole: dict[int, Shard] = {}
        """The shards that this writer wrote, or compared with their `content`."""
        self._rows = lru_cache(maxsize=_SHARDS_AT_HAND)(self._draw_rows)
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
        present = set(self.files.names())
        return [
            number
            for number in (range(self.shards) if among is None else among)
            if shard_file(number) not in present or not self._is_whole(number)
        ]

    def rows_in(self, number: int) -> int:
        """Return how many rows a shard has."""
        return min(self._shard_rows, self.total_rows - number * self._shard_rows)

    def rows_to_ask(self, number: int) -> int:
        """Return for how many rows of a shard the teacher has to be asked."""
        return int((~self._find(number)[0]).sum())

    def batch(self, number: int) -> Batch:
        """Return what to ask the teacher for one shard: the rows whose answer is not known yet."""
        return self._batch(number, ~self._find(number)[0])

    def first_row(self, number: int) -> int:
        """Return which row of the whole set is the first of a shard."""
        return number * self._shard_rows

    def known_places(self, number: int) -> NDArray[np.int64]:
        """Return which rows of a shard, counted within it, have an answer in other sets."""
        return np.flatnonzero(self._find(number)[0])

    def recall(self, number: int, places: NDArray[np.int64]) -> Recalled:
        """Return views and their stored answers, to ask the teacher about them once more.

        Args:
            number: of a shard that is written, or else of one of which other sets know these rows.
            places: rows counted within the shard, rising.
        """
        try:
            columns = self.columns(number)
        except FileNotFoundError:
            columns = self._find(number)[1]
        answers = {name: columns[name][places] for name in answer_columns(self.inputs)}
        wanted = np.zeros(self.rows_in(number), np.bool_)
        wanted[places] = True
        images = self._batch(number, wanted).images
        logits = logits_of(answers, len(self.inputs.classes))
        kept = np.full(logits.shape, self.inputs.kept is None)
        if "classes" in answers:
            np.put_along_axis(kept, answers["classes"].astype(np.int64), values=True, axis=1)
        return Recalled(images, logits, kept)

    def columns(self, number: int) -> dict[str, Array]:
        """Return the columns of a shard that is written, mapped and not copied.

        Raises:
            FileNotFoundError: it is not there yet.
            Corrupt: it is no shard of this set.
        """
        name, whole = shard_file(number), self._whole.get(number)
        path = self.files.fetch(name) if whole is None else self.files.verified(name, whole.sha256)
        columns, metadata = read_tensors(path)
        if metadata.get("inputs") != self.inputs.digest or not has_columns(
            columns, self.inputs, self.rows_in(number)
        ):
            raise Corrupt(str(path))
        return columns

    def write_shard(self, number: int, logits: Array) -> bool:
        """Store the teacher's answer for `batch(number)`; return False where another writer was first.

        What is stored is z = logits x temperature with the mean of each row taken off, as 16-bit floats:
        softmax(z / T) are the soft targets. See `answers.zero_mean` for logits that come as 16-bit floats.

        Args:
            number: of the shard.
            logits: softened logits z/T as answered at `inputs.temperature`, n x classes, float16 or wider.
                Answers known before are stored as they were.

        Raises:
            TeacherAnswerInvalid: another shape, a number that is not finite, or one beyond 16-bit floats.
            StoreFull: nothing more fits; shards already there stay.
        """
        shard = self._rows(number)
        known, answers = self._find(number)
        asked = ~known
        for name, column in encode(
            logits, self.inputs, rows=shard.rows[asked], views=shard.views[asked]
        ).items():
            answers[name][asked] = column
        columns = {**self._known_columns(shard), **answers}
        metadata = {
            "format": str(self.inputs.format),
            "inputs": self.inputs.digest,
            "shard": str(number),
            "content": content_digest(columns, self.inputs),
        }
        data = tensors_to_bytes(columns, metadata)
        while not self.files.put_once(shard_file(number), data):
            if self._is_whole(number):
                return False  # that shard is as good as ours
        self._whole[number] = Shard(
            file=shard_file(number), rows=self.rows_in(number), sha256=sha256_bytes(data)
        )
        return True

    def finish(self) -> TransferSetManifest:
        """Write the manifest once all shards are there, and return it; doing it again changes nothing.

        Raises:
            ValueError: shards are missing.
            StoreFull: it does not fit.
        """
        if missing := self.missing_shards():
            raise ValueError(f"{len(missing)} of {self.shards} shards are missing, first {missing[0]}")
        manifest = TransferSetManifest(
            digest=self.inputs.digest,
            inputs=self.inputs,
            shards=tuple(self._whole[number] for number in range(self.shards)),
            top_k_error=self._top_k_error(),
            created_at=datetime.now(UTC),
        )
        try:
            present = read_manifest(self.files)
        except (FileNotFoundError, Corrupt):
            present = None
        if present is not None and present.model_copy(update={"created_at": manifest.created_at}) == manifest:
            return present
        self.files.put(MANIFEST, manifest.model_dump_json(indent=2).encode())
        return manifest

    def _draw_rows(self, number: int) -> _Rows:
        """Return the rows of a shard: view after view, each with all selected images in order."""
        if not 0 <= number < self.shards:
            raise ValueError(f"shards are 0 to {self.shards - 1}, not {number}")
        begin = number * self._shard_rows
        views, places = np.divmod(
            np.arange(begin, begin + self.rows_in(number), dtype=np.int64), self.inputs.rows
        )
        rows = self._selection.rows[places]
        size = self.inputs.input.height, self.inputs.input.width
        drawn = [
            view_parameters(self.inputs.spec, len(self._images), int(view), size, rows=rows[views == view])
            for view in np.unique(views)
        ]
        return _Rows(
            rows=rows,
            labelled=self._selection.labelled[places],
            views=views.astype(np.int32),
            parameters=ViewParameters.concatenate(drawn),
            digests=image_digests(self._images[row] for row in rows),
        )

    def _known_columns(self, shard: _Rows) -> dict[str, Array]:
        parameters = shard.parameters.columns()
        return {
            "row": shard.rows,
            "labelled": shard.labelled.astype(np.uint8),
            "view": shard.views,
            **{name: parameters[name] for name in parameter_columns(self.inputs.spec)},
            "image_digest": shard.digests,
        }

    def _batch(self, number: int, wanted: NDArray[np.bool_]) -> Batch:
        shard = self._rows(number)
        rows, parameters = shard.rows[wanted], shard.parameters[wanted]
        return Batch(rows, shard.views[wanted], parameters, self._images)

    def _find(self, number: int) -> tuple[NDArray[np.bool_], dict[str, Array]]:
        """Return for which rows of a shard an answer is known, and the answers, 0 for the others."""
        if self._known is None:
            rows = self.rows_in(number)
            return np.zeros(rows, np.bool_), empty_answers(self.inputs, rows)
        shard = self._rows(number)
        return self._known.find(row_keys(shard.digests, shard.parameters))

    def _top_k_error(self) -> tuple[TopKError, ...] | None:
        if self.inputs.kept is None:
            return None
        temperatures = self.inputs.error_temperatures
        total, largest = np.zeros(len(temperatures)), np.zeros(len(temperatures))
        for number in range(self.shards):
            errors = self.columns(number)["error"].astype(np.float64)
            total += errors.sum(axis=0)
            largest = np.maximum(largest, errors.max(axis=0))
        return tuple(
            TopKError(
                temperature=temperature,
                rows=self.total_rows,
                mean_nats=total[i] / self.total_rows,
                largest_nats=largest[i],
            )
            for i, temperature in enumerate(temperatures)
        )

    def _is_whole(self, number: int) -> bool:
        if number in self._whole:
            return True
        name = shard_file(number)
        try:
            path = self.files.fetch(name)
            columns, metadata = read_tensors(path)
            whole = (
                has_columns(columns, self.inputs, self.rows_in(number))
                and metadata.get("inputs") == self.inputs.digest
                and metadata.get("content") == content_digest(columns, self.inputs)
                and all(
                    np.array_equal(columns[name], column)
                    for name, column in self._known_columns(self._rows(number)).items()
                )
            )
        except FileNotFoundError:
            return False
        except Corrupt:
            whole = False
        if whole:
            self._whole[number] = Shard(file=name, rows=self.rows_in(number), sha256=sha256_file(path))
        else:
            # The manifest goes first: it must never speak for a shard that is not there.
            self.files.remove(MANIFEST)
            self.files.remove(name)
            self.rebuilt.append(name)
            log.warning("damaged shard removed", extra={"digest": self.inputs.digest, "shard": name})
        return whole
