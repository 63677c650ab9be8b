"""The transfer-set stage: ask the teacher about every view of the selected training images, once."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext, seconds_of
from shared.adapters.teacher_client import TeacherClient
from shared.artefacts.files import write_atomic
from shared.contracts.datasets import DatasetManifest
from shared.contracts.jobs import Stage
from shared.contracts.specs import DistillationSpec
from shared.contracts.teachers import TeacherDescription
from shared.contracts.training import TransferSetSpec
from shared.distillation.examples import Examples
from shared.distillation.losses import UNLABELLED
from shared.transfer_set.format import TransferSetInputs, preprocessing_digest
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.selection import select_rows
from shared.transfer_set.writer import TransferSetWriter

REQUEST_ROWS = 512
"""Images a request: enough to fill a forward pass, few enough that several are in flight."""


class _Outcome(BaseModel):
    rows: int
    teacher_rows: int
    rows_from_cache: int


@dataclass(frozen=True)
class BuiltTransferSet:
    """A finished transfer set and what it cost this job."""

    digest: str
    seconds: float
    rows: int
    """Training images in it."""
    teacher_rows: int
    """Views that the teacher was asked about, by all attempts at this job."""
    rows_from_cache: int
    """Views whose answer other jobs had asked for: in this set, or in another of the same teacher."""


def build_transfer_set(
    context: JobContext,
    spec: DistillationSpec,
    manifest: DatasetManifest,
    teacher: TeacherDescription,
    client: TeacherClient,
) -> BuiltTransferSet:
    """Build the transfer set of a distillation; see `ask_teacher`."""
    return ask_teacher(
        context,
        spec.transfer_set,
        spec.dataset,
        manifest,
        teacher,
        client,
        temperature=spec.objective.temperature,
    )


def ask_teacher(
    context: JobContext,
    spec: TransferSetSpec,
    dataset: str,
    manifest: DatasetManifest,
    teacher: TeacherDescription,
    client: TeacherClient,
    *,
    temperature: float,
) -> BuiltTransferSet:
    """Ask the teacher what is not stored yet, with several requests in flight; resumes at the shard.

    Args:
        context: of the job.
        spec: which images, in which views.
        dataset: its name in the store.
        manifest: of the dataset.
        teacher: as the job was checked with it.
        client: of the teacher service.
        temperature: T at which a teacher is asked whose logits do not serve any T.

    Raises:
        UnknownClass, OmitAndOnly, EmptyTransferSet, LabelsMissing: nothing can be selected so.
        TeacherChanged: the teacher is not the one that the job was checked with.
        TeacherUnavailable: it does not answer.
        TeacherAnswerInvalid: what it answers cannot be logits.
    """
    train = context.store.datasets.load(dataset, "train")
    selection = select_rows(spec, train.labels, manifest.classes, images=len(train), dataset=dataset)
    one_for_all = teacher.tempers
    inputs = TransferSetInputs(
        dataset_digest=manifest.digest,
        rows=len(selection.rows),
        teacher=teacher.name,
        teacher_digest=teacher.digest,
        preprocessing_digest=preprocessing_digest(teacher.preprocessing),
        classes=teacher.classes,
        spec=spec,
        tempers=one_for_all,
        temperature=1.0 if one_for_all else temperature,
    )
    asked_at = context.files.attempts / f"asked-{inputs.digest[:16]}.json"

    def build(directory: Path) -> None:
        store = context.transfer_sets
        writer = store.writer(inputs, images=train.images, selection=selection, known=store.known(inputs))
        answered = _Answered(asked_at)
        _ask(context, writer, teacher, client, answered)
        writer.finish()
        asked = answered.rows
        outcome = _Outcome(rows=inputs.rows, teacher_rows=asked, rows_from_cache=writer.total_rows - asked)
        outcomes.save(directory / "asked.json", outcome)

    stage = context.once(Stage.TRANSFER_SET, {"transfer_set": inputs.digest}, build)
    asked_at.unlink(missing_ok=True)
    outcome = outcomes.load(stage / "asked.json", _Outcome)
    return BuiltTransferSet(
        digest=inputs.digest,
        seconds=seconds_of(stage),
        rows=outcome.rows,
        teacher_rows=outcome.teacher_rows,
        rows_from_cache=outcome.rows_from_cache,
    )


def taught_examples(examples: Examples, stored: TransferSet, *, temperature: float) -> Examples:
    """Return the examples that the transfer set takes, with what the teacher said and the views it was shown.

    Args:
        examples: the whole training split, with its labels; the validation images stay as they are.
        stored: a finished set of this training split.
        temperature: T of the loss that will be trained with.

    Returns:
        Examples of the selected rows alone, in their order. Their labels are -1 where they may not be used;
        the untaught twin learns from the very same.

    Raises:
        InvalidRequest: its logits do not serve this temperature.
    """
    rows = outcomes.tensor(stored.rows)
    labels = examples.labels
    if labels is not None:
        labels = labels[rows].masked_fill(~outcomes.tensor(stored.labelled), UNLABELLED)
    # A large dataset is not copied where all of it is taken.
    images = examples.images if len(rows) == examples.rows else examples.images[rows]
    return replace(
        examples,
        images=images,
        labels=labels,
        teacher_logits=outcomes.tensor(stored.logits_at(temperature)),
        shifts=outcomes.tensor(stored.shifts),
        flips=outcomes.tensor(stored.flips),
    )


class _Answered:
    """How many rows of each shard this job had answered, over all attempts: a file in the job's folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_shard: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}

    @property
    def rows(self) -> int:
        """Of all shards; a shard whose answers were lost before it was stored counts once."""
        return sum(self._by_shard.values())

    def count(self, shard: int, rows: int) -> None:
        """Keep that the teacher has answered these rows."""
        self._by_shard[str(shard)] = rows
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, json.dumps(self._by_shard).encode())


def _ask(
    context: JobContext,
    writer: TransferSetWriter,
    teacher: TeacherDescription,
    client: TeacherClient,
    answered: _Answered,
) -> None:
    """Fill the missing shards."""
    to_ask = {number: writer.rows_to_ask(number) for number in writer.missing_shards()}
    asked = sum(to_ask.values())
    done = writer.total_rows - asked
    context.progress(Stage.TRANSFER_SET, done, writer.total_rows, "rows")
    for number, rows in to_ask.items():
        if not rows:
            writer.write_shard(number, np.empty((0, len(teacher.classes)), np.float32))
    if not asked:  # all is known: the teacher need not be there, nor be the one of its name still
        return
    places: list[tuple[int, int]] = []
    shards: dict[int, NDArray[np.float32]] = {}
    left = {number: rows for number, rows in to_ask.items() if rows}

    def questions() -> Iterator[NDArray[np.uint8]]:
        for number in list(left):
            images = writer.batch(number).images
            shards[number] = np.empty((len(images), len(teacher.classes)), np.float32)
            for start in range(0, len(images), REQUEST_ROWS):
                places.append((number, start))
                yield images[start : start + REQUEST_ROWS]

    for index, logits in client.soft_targets(
        teacher.name,
        questions(),
        temperature=writer.inputs.temperature,
        expected_digest=teacher.digest,
        should_stop=context.stop.is_set,
    ):
        number, start = places[index]
        shards[number][start : start + len(logits)] = logits
        left[number] -= len(logits)
        done += len(logits)
        if left[number] == 0:
            # Counted first: a shard that is stored was paid for, whatever happens in between.
            answered.count(number, len(shards[number]))
            writer.write_shard(number, shards.pop(number))
        context.progress(Stage.TRANSFER_SET, done, writer.total_rows, "rows")
    context.leave_if_stopped()  # the client ends early, without an error, where it was told to stop
