"""Fills the missing shards of a transfer set with what the teacher says, one shard after another.

The next shard is begun once the last one is stored. So whatever kills the process costs one shard at most,
and no more than one is in memory; requests overlap within a shard.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.adapters.teacher_client import TeacherClient
from shared.artefacts.files import write_atomic
from shared.artefacts.tensors import Array
from shared.contracts.teachers import TeacherDescription
from shared.errors import TeacherAnswerInvalid
from shared.transfer_set.writer import Batch, TransferSetWriter

REQUEST_ROWS: Final = 512
"""Images a request at most: enough to fill a forward pass, few enough that several are in flight."""
_REQUEST_BYTES: Final = 16 << 20
"""Of pixels a request, unless one image alone has more."""


@dataclass(frozen=True)
class Questioner:
    """Who is asked, and until when."""

    client: TeacherClient
    teacher: TeacherDescription
    should_stop: Callable[[], bool]

    def ask(
        self,
        images: Callable[[int, int], NDArray[np.uint8]],
        rows: int,
        *,
        temperature: float,
        step: int | None = None,
    ) -> Iterator[tuple[int, Array]]:
        """Yield where answers begin and the softened logits z/T, in the order in which they come.

        Args:
            images: given the first and the one behind the last of the rows, returns their images; called in a
                thread as requests get free, one ahead.
            rows: how many there are.
            temperature: T at which the teacher is asked.
            step: images a request; None is `request_rows`.

        Raises:
            TeacherChanged: the teacher has another digest than `teacher`.
            TeacherUnavailable: it does not answer.
            TeacherAnswerInvalid: what it answers cannot be logits.
        """
        step = step or request_rows(self.teacher)
        requests = _ahead(images, [(start, min(start + step, rows)) for start in range(0, rows, step)])
        for index, logits in self.client.soft_targets(
            self.teacher.name,
            requests,
            temperature=temperature,
            expected_digest=self.teacher.digest,
            should_stop=self.should_stop,
        ):
            yield index * step, logits


def _ahead(
    make: Callable[[int, int], NDArray[np.uint8]], parts: Iterable[tuple[int, int]]
) -> Iterator[NDArray[np.uint8]]:
    """Yield what is made of each part, the next one in the making while one is used."""
    with ThreadPoolExecutor(1, "next request") as thread:
        coming: Future[NDArray[np.uint8]] | None = None
        for part in parts:
            made, coming = coming, thread.submit(make, *part)
            if made is not None:
                yield made.result()
        if coming is not None:
            yield coming.result()


def request_rows(teacher: TeacherDescription) -> int:
    """Return how many images a request has."""
    return min(REQUEST_ROWS, max(1, _REQUEST_BYTES // teacher.preprocessing.input.values))


class Answered:
    """How many rows of each shard this job had answered, over all attempts: a file in the job's folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_shard: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}

    @property
    def rows(self) -> int:
        """Of all shards; a shard whose answers were lost before it was stored counts once."""
        return sum(self._by_shard.values())

    def __contains__(self, shard: int) -> bool:
        return str(shard) in self._by_shard

    def count(self, shard: int, rows: int) -> None:
        """Keep that the teacher has answered these rows."""
        self._by_shard[str(shard)] = rows
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, json.dumps(self._by_shard).encode())


def fill(
    writer: TransferSetWriter,
    shards: Sequence[int],
    questioner: Questioner,
    answered: Answered,
    *,
    told: Callable[[int], None] = lambda rows: None,
    stored: Callable[[int], None] = lambda shard: None,
    enough: Callable[[], bool] = lambda: False,
    elsewhere: Callable[[list[int]], list[int]] = lambda left: left,
) -> None:
    """Ask for what these shards lack and store them, until the last one or until told to stop.

    A shard of which everything is known is stored without asking: then the teacher need not be there.

    Args:
        writer: of the set; nobody else may use it meanwhile but to read shards.
        shards: those that are missing.
        questioner: whom to ask.
        answered: keeps what was asked.
        told: how many rows more are answered, or stored by another job.
        stored: which shard can be read now.
        enough: asked before each shard; once it says yes, none is begun any more.
        elsewhere: puts the shards that are left into another order, where another job was found to fill the
            same set: two that went on side by side would ask for everything twice.

    Raises:
        TeacherChanged, TeacherUnavailable, TeacherAnswerInvalid: as `Questioner.ask`; rows whose logits
            cannot be stored are named.
        StoreFull: nothing more fits; shards already there stay.
    """
    left = list(shards)
    coming: tuple[int, Future[Batch]] | None = None
    with ThreadPoolExecutor(1, "next shard") as thread:
        while left and not questioner.should_stop() and not enough():
            number = left.pop(0)
            if not writer.missing_shards([number]):
                left = elsewhere(left)  # another job fills the same set
                told(writer.rows_to_ask(number))
                stored(number)
                continue
            ready = coming is not None and coming[0] == number
            batch = coming[1].result() if coming is not None and ready else writer.batch(number)
            # What the next one asks is found out meanwhile; the writer is used by one thread at a time.
            coming = (left[0], thread.submit(writer.batch, left[0])) if left else None
            answers = _answers(batch, questioner, writer.inputs.temperature, told)
            if coming is not None:
                wait([coming[1]])
            if answers is None:
                return
            if len(answers):
                # Counted first: a shard that is stored was paid for, whatever happens in between.
                answered.count(number, len(answers))
            if not writer.write_shard(number, answers):
                left = elsewhere(left)
            stored(number)


def _answers(
    batch: Batch, questioner: Questioner, temperature: float, told: Callable[[int], None]
) -> Array | None:
    """Return what the teacher says of the rows that nobody knows; None where it was stopped."""
    rows, classes = len(batch.rows), len(questioner.teacher.classes)
    if not rows:
        return np.empty((0, classes), np.float32)
    asked = questioner.ask(batch.views_of, rows, temperature=temperature)
    try:
        return gather(asked, (rows, classes), told)
    except TeacherAnswerInvalid as error:
        place = _wrong_row(error, batch, questioner, temperature)
        if place is None:
            raise
        raise TeacherAnswerInvalid(
            f"of image {batch.rows[place]} in view {batch.views[place]}: {error}", remedy=error.remedy
        ) from error


def _wrong_row(
    error: TeacherAnswerInvalid, batch: Batch, questioner: Questioner, temperature: float
) -> int | None:
    """Return the place in the batch of a row that the teacher gives no logits for; None if none is found.

    A request that failed knows its rows by their places in it alone, if at all: here each is asked about by
    itself, until one fails.
    """
    if error.batch is None:
        return None
    first = error.batch * request_rows(questioner.teacher)
    rows = min(request_rows(questioner.teacher), len(batch.rows) - first)
    alone = questioner.ask(
        lambda begin, end: batch.views_of(first + begin, first + end), rows, temperature=temperature, step=1
    )
    try:
        for _ in alone:
            pass
    except TeacherAnswerInvalid as found:
        return None if found.batch is None else first + found.batch
    return None


def gather(
    answers: Iterator[tuple[int, Array]],
    shape: tuple[int, int],
    told: Callable[[int], None] = lambda rows: None,
) -> Array | None:
    """Return answers that come in pieces as one array, of the type in which they come; None if some do not.

    Args:
        answers: where each piece begins, and the logits.
        shape: rows, one at least, and classes.
        told: how many rows more are answered.
    """
    whole: Array | None = None
    left = shape[0]
    for start, logits in answers:
        if whole is None:
            whole = np.empty(shape, logits.dtype)
        whole[start : start + len(logits)] = logits
        left -= len(logits)
        told(len(logits))
    return None if left else whole
