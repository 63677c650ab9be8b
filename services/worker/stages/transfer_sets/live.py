"""A transfer set that is asked for while nets are trained on it already: an epoch waits for its view alone.

A thread fills shard after shard, as far ahead as it gets, and the shards are those of any other set. So an
attempt that dies loses one of them at most, and what is learned is bit for bit what the stored set teaches.
"""

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import numpy as np

from services.worker.stages.transfer_sets.examples import as_torch
from services.worker.stages.transfer_sets.filling import fill
from services.worker.stages.transfer_sets.wanted import Wanted
from shared.adapters.teacher_client import TeacherClient
from shared.artefacts.files import write_atomic
from shared.distillation.cohort import TrainingStopped
from shared.distillation.teacher_answers import TeacherLogits
from shared.transfer_set.format import answer_columns
from shared.transfer_set.topk import SparseLogits

_LOOK_UP_S: Final = 0.2
"""How often whoever waits asks whether to stop."""


class LiveTransferSet:
    """The `LiveLogits` of a transfer set. Asking begins with the first view that is wanted.

    Use it as a context manager around the training: at its end the thread stores the shard that it is at and
    ends, or drops it where the training failed or was stopped.
    """

    def __init__(self, wanted: Wanted, client: TeacherClient) -> None:
        """Look what is missing.

        Args:
            wanted: the set.
            client: of the teacher service; the thread's alone until the end.
        """
        self._wanted = wanted
        self._client = client
        self._writer = wanted.writer
        self._missing = self._writer.missing_shards()
        self._unread = set(self._missing)
        self._changed = threading.Condition()
        self._enough = threading.Event()
        self._over = threading.Event()
        self._thread = ThreadPoolExecutor(1, "live transfer set")
        self._filling: Future[None] | None = None
        self._waited_at = wanted.context.files.attempts / f"waited-{wanted.digest[:16]}.json"
        self.waited_s = float(json.loads(self._waited_at.read_bytes())) if self._waited_at.exists() else 0.0
        """How long training has waited, over all attempts, in seconds."""
        self.known_rows = self._writer.total_rows - sum(map(self._writer.rows_to_ask, self._missing))
        """Rows that were known before this attempt asked."""

    @property
    def views(self) -> int:
        """How many views there will be."""
        return self._wanted.inputs.spec.views

    @property
    def digest(self) -> str:
        """The set's."""
        return self._wanted.digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        (self._enough if error is None else self._over).set()
        self._thread.shutdown()

    def logits(self, view: int) -> TeacherLogits:
        """Return the answers to one view, rows x classes, and wait until they are stored.

        Raises:
            TrainingStopped: the supervisor asked the training process to stop.
            TeacherChanged, TeacherUnavailable, TeacherAnswerInvalid, StoreFull: why there are none.
        """
        if self._filling is None and self._missing:
            self._filling = self._thread.submit(self._fill)
        shards = self._shards_of(view)
        self._wait_for(shards)
        rows, inputs = self._wanted.inputs.rows, self._wanted.inputs
        begin, parts = view * rows, []
        for number in shards:
            columns = self._writer.columns(number)
            first = self._writer.first_row(number)
            here = slice(max(0, begin - first), begin + rows - first)
            parts.append({name: columns[name][here] for name in answer_columns(inputs)})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if inputs.kept is None:
            return as_torch(joined["logits"])
        classes, logits, rest = joined["classes"], joined["logits"], joined["rest"]
        return as_torch(SparseLogits(classes, logits, rest, total=len(inputs.classes)))

    def _shards_of(self, view: int) -> range:
        rows, size = self._wanted.inputs.rows, self._writer.first_row(1)
        return range(view * rows // size, ((view + 1) * rows - 1) // size + 1)

    def _wait_for(self, shards: Sequence[int]) -> None:
        if self._unread.isdisjoint(shards):
            return
        began = time.perf_counter()
        try:
            with self._changed:
                while not self._unread.isdisjoint(shards):
                    if self._wanted.context.stop.is_set():
                        raise TrainingStopped
                    if self._filling is not None and self._filling.done():
                        self._filling.result()  # raises what it ended by: all was to be filled
                    self._changed.wait(_LOOK_UP_S)
        finally:
            self.waited_s += time.perf_counter() - began
            self._waited_at.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._waited_at, json.dumps(self.waited_s).encode())

    def _fill(self) -> None:
        stop = self._wanted.context.stop
        questioner = self._wanted.questioner(self._client, lambda: stop.is_set() or self._over.is_set())
        fill(
            self._writer,
            self._missing,
            questioner,
            self._wanted.answered(),
            stored=self._stored,
            enough=self._enough.is_set,
        )

    def _stored(self, number: int) -> None:
        with self._changed:
            self._unread.discard(number)
            self._changed.notify_all()
