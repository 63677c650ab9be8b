"""What a teacher says of images beyond the transfer set: of the validation and the test split."""

import math

import numpy as np
import onnx
from numpy.typing import NDArray

from services.worker.stages.context import JobContext, JobStopped
from services.worker.stages.transfer_sets.filling import Questioner, gather
from shared.adapters.teacher_client import TeacherClient
from shared.artefacts.model_files import GRAPH
from shared.contracts.teachers import MixedEnsemble, Nets, OnnxModel, TeacherDescription


def teacher_client(context: JobContext, patience_s: float = 120.0) -> TeacherClient:
    """Return who asks the teacher service for a job, with the worker's own key where it has one.

    What is asked counts for the key that the job was submitted with, where the worker's may say so.

    Args:
        context: of the job.
        patience_s: how long to try while the service answers nothing.
    """
    settings = context.settings
    return TeacherClient(
        settings.teacher_url,
        key=settings.teacher_key,
        account=context.order.key_id,
        patience_s=patience_s,
    )


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


def teacher_parameters(context: JobContext, teacher: TeacherDescription) -> int | None:
    """Return how many numbers the teacher consists of, all members together; None where a server hides them.

    Of a graph its initialisers count: constants within nodes are few, and seldom learned.
    """
    model, teachers = teacher.model, context.store.teachers
    if isinstance(model, Nets):
        return sum(array.size for array in teachers.load(teacher).values())
    if isinstance(model, OnnxModel):
        graph = onnx.load(teachers.file(teacher, GRAPH)).graph
        return sum(int(math.prod(tensor.dims)) for tensor in graph.initializer)
    if isinstance(model, MixedEnsemble):
        members = [
            teacher_parameters(context, teachers.described(one.name, one.digest)) for one in model.members
        ]
        return None if None in members else sum(filter(None, members))
    return None
