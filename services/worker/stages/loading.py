"""Loads a teacher of the store, or a draft of one, into this process, whatever its kind."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from services.worker.stages.context import JobContext
from services.worker.stages.trying import Ask, Images
from shared.adapters.oip import OipModel
from shared.artefacts.teachers import TeacherStore
from shared.contracts.images import Preprocessing
from shared.contracts.teachers import MemberTeacher, RemoteModel, TeacherDescription
from shared.models.answering import AnsweringTeacher
from shared.models.devices import torch_device
from shared.models.ensemble import merge_logits
from shared.models.making import Means, teacher_of

_ROWS: Final = 64
"""Images a call, where the teacher says nothing else."""


def load_teacher(
    context: JobContext,
    description: TeacherDescription,
    drafts: TeacherStore | None = None,
    as_if: Preprocessing | None = None,
) -> AnsweringTeacher:
    """Return the teacher, ready to answer where nets are trained.

    Args:
        context: of the job.
        description: of the teacher.
        drafts: where its files are, if not among the published teachers; its members are published.
        as_if: in place of its own preprocessing, to see what another would do. A server is then not compared
            with its probe, which was answered about images as they should be.

    Raises:
        DistillationError: as `shared.models.making.teacher_of` says.
    """
    store = drafts or context.store.teachers

    def file(name: str) -> Path:
        return store.file(description, name)

    def server(model: RemoteModel) -> OipModel:
        return OipModel(model, context.settings.oip_hosts)

    def member(one: MemberTeacher) -> AnsweringTeacher:
        return load_teacher(context, context.store.teachers.described(one.name, one.digest))

    made = description
    if as_if is not None:
        made = description.model_copy(update={"preprocessing": as_if, "files": {}})
    device = torch_device(context.settings.device)
    means = Means(file=file, server=server, member=member, device=device)
    # A draft is about to be tried: what is not finite then is named by its row.
    return teacher_of(made, means, unproven=drafts is not None)


def asking(context: JobContext, teacher: AnsweringTeacher) -> Ask:
    """Return what asks a teacher in this process, some images at a time, so that a stop is heard in between.

    One member's logits come as they are; several are merged at T = 1, with zero mean in each row.
    """
    rows = teacher.most_rows or _ROWS

    def ask(images: Images) -> NDArray[np.float32]:
        answers = []
        for start in range(0, len(images), rows):
            context.leave_if_stopped()
            logits = teacher.member_logits(torch.from_numpy(images[start : start + rows]))
            if len(logits) == 1:
                answers.append(logits[0])
            else:
                answers.append(merge_logits(logits, temperature=1.0, merge=teacher.merge))
        merged: NDArray[np.float32] = torch.cat(answers).float().cpu().numpy()
        return merged

    return ask
