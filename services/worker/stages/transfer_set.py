"""The transfer-set stage: ask the teacher about every view of every training image, once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext, seconds_of
from shared.adapters.teacher_client import TeacherClient
from shared.contracts.datasets import DatasetManifest
from shared.contracts.jobs import Stage
from shared.contracts.specs import DistillationSpec
from shared.contracts.teachers import TeacherDescription
from shared.distillation.examples import Examples
from shared.models.ensemble import tempers
from shared.transfer_set.format import TransferSetInputs, preprocessing_digest
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.writer import TransferSetWriter

REQUEST_ROWS = 512
"""Images a request: enough to fill a forward pass, few enough that several are in flight."""


class _Asked(BaseModel):
    teacher_rows: int


@dataclass(frozen=True)
class BuiltTransferSet:
    """A finished transfer set and what it cost this job; nothing where another job had built it."""

    digest: str
    path: Path
    seconds: float
    teacher_rows: int


def build_transfer_set(
    context: JobContext,
    spec: DistillationSpec,
    manifest: DatasetManifest,
    teacher: TeacherDescription,
    client: TeacherClient,
) -> BuiltTransferSet:
    """Ask the teacher what is not stored yet, with several requests in flight; resumes at the shard.

    Raises:
        TeacherChanged: the teacher is not the one that the job was checked with.
        TeacherUnavailable: it does not answer.
        TeacherAnswerInvalid: what it answers cannot be logits.
    """
    one_for_all = tempers(teacher.merge, teacher.members)
    inputs = TransferSetInputs(
        dataset_digest=manifest.digest,
        rows=manifest.counts.train,
        teacher=teacher.name,
        teacher_digest=teacher.digest,
        preprocessing_digest=preprocessing_digest(teacher.preprocessing),
        classes=teacher.classes,
        spec=spec.transfer_set,
        tempers=one_for_all,
        temperature=1.0 if one_for_all else spec.objective.temperature,
    )
    path = context.store.transfer_sets / inputs.digest

    def build(directory: Path) -> None:
        images = context.store.datasets.load(spec.dataset, "train").images
        writer = TransferSetWriter(path, inputs, images=images)
        asked = _ask(context, writer, teacher, client)
        writer.finish()
        outcomes.save(directory / "asked.json", _Asked(teacher_rows=asked))

    stage = context.once(Stage.TRANSFER_SET, {"transfer_set": inputs.digest}, build)
    asked = outcomes.load(stage / "asked.json", _Asked)
    return BuiltTransferSet(inputs.digest, path, seconds_of(stage), asked.teacher_rows)


def taught_examples(examples: Examples, transfer_set: Path, *, temperature: float) -> Examples:
    """Return the examples together with what the teacher said of them and the views it was shown."""
    stored = TransferSet.open(transfer_set)
    return replace(
        examples,
        teacher_logits=outcomes.tensor(stored.logits_at(temperature)),
        shifts=outcomes.tensor(stored.shifts),
    )


def _ask(
    context: JobContext, writer: TransferSetWriter, teacher: TeacherDescription, client: TeacherClient
) -> int:
    """Fill the missing shards; return how many rows the teacher was asked for."""
    missing = writer.missing_shards()
    places: list[tuple[int, int]] = []
    shards: dict[int, NDArray[np.float32]] = {}
    left: dict[int, int] = {}
    known = writer.total_rows - sum(writer.rows_in(number) for number in missing)
    done = known
    context.progress(Stage.TRANSFER_SET, done, writer.total_rows, "rows")

    def questions() -> Iterator[NDArray[np.uint8]]:
        for number in missing:
            images = writer.batch(number).images
            shards[number] = np.empty((len(images), len(teacher.classes)), np.float32)
            left[number] = len(images)
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
            writer.write_shard(number, shards.pop(number))
        context.progress(Stage.TRANSFER_SET, done, writer.total_rows, "rows")
    context.leave_if_stopped()  # the client ends early, without an error, where it was told to stop
    return done - known
