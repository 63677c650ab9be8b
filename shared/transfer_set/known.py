"""What other transfer sets already know: no teacher is asked twice about the same pixels.

Jobs on one teacher overlap: a share is a part of the whole, a second view is drawn beside the first, and a
share of the labels changes nothing that a teacher sees.
"""

import logging
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from shared.errors import Corrupt
from shared.transfer_set.format import TransferSetInputs, TransferSetManifest, row_keys
from shared.transfer_set.places import SetFiles
from shared.transfer_set.reader import TransferSet

log = logging.getLogger(__name__)


class KnownAnswers:
    """Answers of one teacher in the finished transfer sets of a store, found by `row_keys`.

    Sets are opened one after another, those of the same dataset first, for as long as answers are missing.
    """

    def __init__(
        self, stored: Iterable[tuple[TransferSetManifest, SetFiles]], inputs: TransferSetInputs
    ) -> None:
        """Look which sets asked the same.

        Args:
            stored: all finished sets.
            inputs: of the set that is to be built; itself it is not searched.
        """
        self._classes = len(inputs.classes)
        self._closed = [
            (manifest, files)
            for manifest, files in stored
            if manifest.digest != inputs.digest and manifest.inputs.asks_the_same(inputs)
        ]
        self._closed.sort(key=lambda stored: stored[0].inputs.dataset_digest != inputs.dataset_digest)
        self._opened: list[_Answers] = []

    def find(self, keys: NDArray[np.bytes_]) -> tuple[NDArray[np.bool_], NDArray[np.float16]]:
        """Return which of n keys have an answer, and the zero-mean logits, n x classes (0 without one)."""
        found = np.zeros(len(keys), np.bool_)
        logits = np.zeros((len(keys), self._classes), np.float16)
        number = 0
        while not found.all() and self._has(number):
            missing = np.flatnonzero(~found)
            hits, answers = self._opened[number].find(keys[missing])
            found[missing[hits]] = True
            logits[missing[hits]] = answers
            number += 1
        return found, logits

    def _has(self, number: int) -> bool:
        """Open sets until there is one of this number; False where there are not so many."""
        while number >= len(self._opened) and self._closed:
            manifest, files = self._closed.pop(0)
            try:
                self._opened.append(_Answers(TransferSet.open(files)))
            except (Corrupt, FileNotFoundError) as error:
                # Another job's set: whoever needs it will be told. Here it only means to ask the teacher.
                log.warning(
                    "transfer set passed over", extra={"digest": manifest.digest, "reason": str(error)}
                )
        return number < len(self._opened)


class _Answers:
    """The answers of one set, ordered by key."""

    def __init__(self, stored: TransferSet) -> None:
        views, rows, classes = stored.logits.shape
        keys = row_keys(
            np.tile(stored.image_digests, (views, 1)), stored.shifts.reshape(-1, 2), stored.flips.reshape(-1)
        )
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        self._logits = stored.logits.reshape(views * rows, classes)

    def find(self, keys: NDArray[np.bytes_]) -> tuple[NDArray[np.bool_], NDArray[np.float16]]:
        """Return which of the keys are here, and the logits of those."""
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        hits = self._keys[places] == keys
        return hits, self._logits[self._order[places[hits]]]
