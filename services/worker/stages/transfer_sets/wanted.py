"""A transfer set as a job wants it: its images selected, its name known, nothing asked for yet."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.worker.stages.context import JobContext
from services.worker.stages.owning import own_transfer_set
from services.worker.stages.transfer_sets.choosing import kept_choice
from services.worker.stages.transfer_sets.filling import Answered, Questioner
from shared.adapters.teacher_client import TeacherClient
from shared.artefacts.datasets import Split
from shared.contracts.datasets import DatasetManifest
from shared.contracts.teachers import TeacherDescription
from shared.contracts.training import TransferSetSpec
from shared.transfer_set.format import TransferSetInputs, preprocessing_digest
from shared.transfer_set.selection import Selection, select_rows, share_of
from shared.transfer_set.writer import TransferSetWriter

ChooseNow = Callable[[NDArray[np.int64], Split], NDArray[np.int64]]
"""Given the rows to choose from and the training split, returns those that are taken, rising."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of whom, for which job."""

    context: JobContext
    dataset: str
    teacher: TeacherDescription
    inputs: TransferSetInputs
    train: Split
    selection: Selection

    @property
    def digest(self) -> str:
        """The set's name."""
        return self.inputs.digest

    @cached_property
    def writer(self) -> TransferSetWriter:
        """What fills the set; what other sets know is not asked for. One for all, as it remembers much."""
        store = self.context.transfer_sets
        return store.writer(
            self.inputs, images=self.train.images, selection=self.selection, known=store.known(self.inputs)
        )

    def questioner(self, client: TeacherClient, should_stop: Callable[[], bool] | None = None) -> Questioner:
        """Return who asks the teacher, until the supervisor says stop, or `should_stop` does."""
        return Questioner(client, self.teacher, should_stop or self.context.stop.is_set)

    @property
    def answered_at(self) -> Path:
        """Where it is kept how many rows this job had answered; it outlives attempts."""
        return self.context.files.attempts / f"asked-{self.digest[:16]}.json"

    def answered(self) -> Answered:
        """Return how many rows this job had answered so far."""
        return Answered(self.answered_at)


def want(
    context: JobContext,
    spec: TransferSetSpec,
    dataset: str,
    manifest: DatasetManifest,
    teacher: TeacherDescription,
    *,
    temperature: float,
    choose_now: ChooseNow | None = None,
) -> Wanted:
    """Return the transfer set of these options, which the job's owner has from here on.

    Args:
        context: of the job.
        spec: which images, in which views.
        dataset: its name in the store.
        manifest: of the dataset.
        teacher: who is asked.
        temperature: T at which it is asked where its logits do not serve any T.
        choose_now: chooses where `spec.choose` is given and nobody has chosen yet.

    Raises:
        UnknownClass, OmitAndOnly, EmptyTransferSet, LabelsMissing: nothing can be selected so.
        TransferSetNotFound: what was chosen is gone.
    """
    train = context.store.datasets.load(dataset, "train")

    def selected(chosen: NDArray[np.int64] | None = None) -> Selection:
        return select_rows(
            spec, train.labels, manifest.classes, images=len(train), dataset=dataset, chosen=chosen
        )

    def inputs(rows: int) -> TransferSetInputs:
        return TransferSetInputs(
            dataset_digest=manifest.digest,
            input=manifest.input,
            rows=rows,
            teacher=teacher.name,
            teacher_digest=teacher.digest,
            preprocessing_digest=preprocessing_digest(teacher.preprocessing),
            classes=teacher.classes,
            spec=spec,
            tempers=teacher.tempers,
            temperature=1.0 if teacher.tempers else temperature,
        )

    selection = selected()
    if spec.choose is not None:
        rows = selection.rows
        digest = inputs(share_of(len(rows), spec.choose.share)).digest
        choose = (lambda: choose_now(rows, train)) if choose_now is not None else None
        selection = selected(kept_choice(context.transfer_sets, digest, choose))
    wanted = Wanted(context, dataset, teacher, inputs(len(selection.rows)), train, selection)
    own_transfer_set(context, wanted.digest)
    return wanted
