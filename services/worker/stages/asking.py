"""What a teacher says of images beyond the transfer set: of the validation and the test split."""

import numpy as np
from numpy.typing import NDArray

from services.worker.stages.context import JobContext, JobStopped
from services.worker.stages.transfer_sets.filling import Questioner, gather
from shared.adapters.teacher_client import TeacherClient
from shared.contracts.teachers import TeacherDescription


def ask_all(
    context: JobContext, client: TeacherClient, teacher: TeacherDescription, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the teacher's logits at T = 1 for every image, in order.

    Raises:
        TeacherChanged: the teacher is not the one that the job was checked with.
        TeacherUnavailable: it does not answer.
        JobStopped: the supervisor asked the training process to stop.
    """
    questioner = Questioner(client, teacher, context.stop.is_set)
    asked = questioner.ask(lambda begin, end: images[begin:end], len(images), temperature=1.0)
    answers = gather(asked, (len(images), len(teacher.classes)))
    if answers is None:
        raise JobStopped  # the client ends early, without an error, where it was told to stop
    return answers.astype(np.float32, copy=False)


def teacher_parameters(context: JobContext, teacher: TeacherDescription) -> int:
    """Return how many numbers the teacher consists of, all members together."""
    return sum(array.size for array in context.store.teachers.load(teacher).values())
