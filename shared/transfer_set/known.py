"""What other transfer sets already know: no teacher is asked twice about the same pixels.

Jobs on one teacher overlap: a share is a part of the whole, a second view is drawn beside the first, and a
share of the labels changes nothing that a teacher sees.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.tensors import Array
from shared.errors import Corrupt
from shared.transfer_set.answers import empty_answers, thin_out
from shared.transfer_set.format import (
    TransferSetInputs,
    TransferSetManifest,
    answer_columns,
    parameters_of,
    row_keys,
)
from shared.transfer_set.key_index import KeyIndex, hash_keys
from shared.transfer_set.places import SetFiles
from shared.transfer_set.reader import read_shard

log = logging.getLogger(__name__)


class KnownAnswers:
    """Answers of one teacher in the finished transfer sets of a store, found by `row_keys`.

    Sets are opened one after another, those of the same dataset first, for as long as answers are missing.
    Nothing of them is held in memory but what the kernel keeps of mapped files.
    """

    def __init__(
        self,
        stored: Iterable[tuple[TransferSetManifest, SetFiles]],
        inputs: TransferSetInputs,
        scratch: Path,
    ) -> None:
        """Look which sets asked the same.

        Args:
            stored: all finished sets.
            inputs: of the set that is to be built; itself it is not searched.
            scratch: a folder for files that end with this process.
        """
        self._inputs = inputs
        self._scratch = scratch
        self._closed = [
            (manifest, files)
            for manifest, files in stored
            if manifest.digest != inputs.digest and manifest.inputs.serves(inputs)
        ]
        self._closed.sort(key=lambda stored: stored[0].inputs.dataset_digest != inputs.dataset_digest)
        self._opened: list[_Stored] = []

    def find(self, keys: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], dict[str, Array]]:
        """Return which of n keys have an answer, and the columns that store the answers, 0 without one."""
        found = np.zeros(len(keys), np.bool_)
        columns = empty_answers(self._inputs, len(keys))
        number = 0
        while not found.all() and self._has(number):
            missing = np.flatnonzero(~found)
            hits, answers = self._opened[number].find(keys[missing], self._inputs)
            found[missing[hits]] = True
            for name, column in answers.items():
                columns[name][missing[hits]] = column
            number += 1
        return found, columns

    def _has(self, number: int) -> bool:
        """Open sets until there is one of this number; False where there are not so many."""
        while number >= len(self._opened) and self._closed:
            manifest, files = self._closed.pop(0)
            self._opened.append(_Stored(manifest, files, self._scratch))
        return number < len(self._opened)


class _Stored:
    """The answers of one set."""

    def __init__(self, manifest: TransferSetManifest, files: SetFiles, scratch: Path) -> None:
        self._inputs = manifest.inputs
        self._begins = np.cumsum([0, *(shard.rows for shard in manifest.shards)])
        self._shards: dict[int, dict[str, Array]] = {}
        """Of each shard that can be read the columns, mapped."""
        for number, shard in enumerate(manifest.shards):
            try:
                self._shards[number] = read_shard(files, shard, manifest.inputs)
            except Corrupt as error:
                # Another job's set: whoever needs it will be told. Here it only means to ask the teacher.
                log.warning("shard passed over", extra={"digest": manifest.digest, "reason": str(error)})
        self._index = KeyIndex(self._hashes(), int(self._begins[-1]), scratch)

    def find(
        self, keys: NDArray[np.uint8], inputs: TransferSetInputs
    ) -> tuple[NDArray[np.bool_], dict[str, Array]]:
        """Return which of n keys are here, and of those the columns that store the answers."""
        maybe, rows = self._index.find(hash_keys(keys))
        hits = np.zeros(len(keys), np.bool_)
        columns = empty_answers(inputs, len(keys))
        shards = np.searchsorted(self._begins, rows, "right") - 1
        for number in np.unique(shards[maybe]):
            wanted = np.flatnonzero(maybe & (shards == number))
            places = rows[wanted] - self._begins[number]
            stored = {name: column[places] for name, column in self._shards[int(number)].items()}
            same = (self._keys(stored) == keys[wanted]).all(axis=1)
            hits[wanted] = same
            for name, column in self._answers(stored, inputs).items():
                columns[name][wanted[same]] = column[same]
        return hits, {name: column[hits] for name, column in columns.items()}

    def _answers(self, stored: dict[str, Array], inputs: TransferSetInputs) -> dict[str, Array]:
        if self._inputs.kept == inputs.kept:
            return {name: stored[name] for name in answer_columns(inputs)}
        return thin_out(stored["logits"], inputs)

    def _hashes(self) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        for number, columns in self._shards.items():
            yield int(self._begins[number]), hash_keys(self._keys(columns))

    def _keys(self, columns: dict[str, Array]) -> NDArray[np.uint8]:
        return row_keys(columns["image_digest"], parameters_of(columns, self._inputs, len(columns["row"])))
