"""The teacher as it was when the job began: its name may stand for another one by the next attempt."""

from pydantic import BaseModel

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext
from shared.contracts.jobs import Stage
from shared.contracts.teachers import TeacherDescription


class _Pinned(BaseModel):
    digest: str


def pinned_teacher(context: JobContext, name: str) -> TeacherDescription:
    """Return the teacher that had this name at the first attempt.

    Raises:
        TeacherNotFound: there was none, or it is gone.
    """
    pinned_at = context.once(
        Stage.CHECK,
        {"pinned": name},
        lambda directory: outcomes.save(
            directory / "teacher.json", _Pinned(digest=context.store.teachers.current(name).digest)
        ),
    )
    return context.store.teachers.described(name, outcomes.load(pinned_at / "teacher.json", _Pinned).digest)
