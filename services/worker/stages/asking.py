"""What a teacher says of images beyond the transfer set: of the validation and the test split."""

import numpy as np
from numpy.typing import NDArray

from services.worker.stages.context import JobContext
from services.worker.stages.transfer_set import REQUEST_ROWS
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
    answers = np.empty((len(images), len(teacher.classes)), dtype=np.float32)
    batches = (images[start : start + REQUEST_ROWS] for start in range(0, len(images), REQUEST_ROWS))
    for index, logits in client.soft_targets(
        teacher.name,
        batches,
        temperature=1.0,
        expected_digest=teacher.digest,
        should_stop=context.stop.is_set,
    ):
        answers[index * REQUEST_ROWS : index * REQUEST_ROWS + len(logits)] = logits
    context.leave_if_stopped()  # the client ends early, without an error, where it was told to stop
    return answers


def teacher_parameters(context: JobContext, teacher: TeacherDescription) -> int:
    """Return how many numbers the teacher consists of, all members together."""
    return sum(array.size for array in context.store.teachers.load(teacher).values())
