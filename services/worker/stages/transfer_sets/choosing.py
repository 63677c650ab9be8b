"""Which images a transfer set takes where `choose` decides: by what teacher and student say of all of them.

What was chosen is kept beside the shards from the start: two processors may round a score differently, and
all who write the set must speak of the same images.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.worker.stages.context import JobContext
from shared.artefacts.tensors import read_tensors, tensors_to_bytes
from shared.contracts.teachers import TeacherDescription
from shared.contracts.training import Choice
from shared.errors import ClassMismatch, InputMismatch, TransferSetNotFound
from shared.serving.session import StudentSession
from shared.transfer_set.choice import LogitsOf, choose_rows
from shared.transfer_set.store import TransferSetStore

CHOSEN: Final = "chosen.safetensors"
"""Beside the shards: `row`, int64 n, the images of the training split that were chosen, rising."""


def check_student(context: JobContext, choice: Choice, teacher: TeacherDescription) -> None:
    """Raise where the student that is to disagree, if one is, cannot.

    Raises:
        StudentNotFound: there is no such version.
        ClassMismatch, InputMismatch: it does not answer for the teacher's classes or images.
    """
    if choice.student is None:
        return
    card = context.store.students.card(choice.student)
    ours, theirs = f"student {choice.student!r}", f"teacher {teacher.name!r}"
    if card.classes != teacher.classes:
        raise ClassMismatch(ours, card.classes, theirs, teacher.classes)
    if card.preprocessing.input != teacher.preprocessing.input:
        given, taken = card.preprocessing.input, teacher.preprocessing.input
        raise InputMismatch(
            f"{ours} takes images of {given.height} x {given.width} x {given.channels}, {theirs} of "
            f"{taken.height} x {taken.width} x {taken.channels}"
        )


def choose(
    context: JobContext,
    choice: Choice,
    rows: NDArray[np.int64],
    images: NDArray[np.uint8],
    teacher: LogitsOf,
) -> NDArray[np.int64]:
    """Return the rows that are taken, rising.

    Args:
        context: of the job; has the student.
        choice: by what, and how many.
        rows: of the training split, to choose from, rising.
        images: the whole training split.
        teacher: its logits at T = 1 for view 0 of the rows at these places.

    Raises:
        StudentUnusable: the student does not load.
    """
    if choice.student is None:
        return choose_rows(rows, choice.share, teacher)
    folder = context.store.students.file(choice.student, "card.json").parent
    session = StudentSession.load(folder, threads=context.settings.threads or 1)

    def student(block: slice) -> NDArray[np.float32]:
        return session.run(np.ascontiguousarray(images[rows[block]]))[0]

    return choose_rows(rows, choice.share, teacher, student)


def kept_choice(
    sets: TransferSetStore, digest: str, choose_now: Callable[[], NDArray[np.int64]] | None
) -> NDArray[np.int64]:
    """Return what whoever began the set of this digest chose; choose now, and keep it, where nobody did.

    Raises:
        TransferSetNotFound: nobody did, and it is not for this job to choose.
    """
    files = sets.set_files(digest)
    while True:
        try:
            return np.array(read_tensors(files.fetch(CHOSEN))[0]["row"])
        except FileNotFoundError:
            if choose_now is None:
                raise TransferSetNotFound(digest) from None
            files.put_once(CHOSEN, tensors_to_bytes({"row": choose_now()}))
