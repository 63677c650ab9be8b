"""Whose it is what a job makes, noted before anybody can see it: a crash in between loses it to nobody."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.worker.stages.context import JobContext
from shared.errors import TeacherExists


@contextmanager
def owned_teacher(context: JobContext, name: str) -> Iterator[None]:
    """Hold a teacher's name for the job's owner while it is published under it.

    Raises:
        TeacherExists: the name was taken by another owner since the job was submitted.
        JobStopped: the job is not this attempt's any more.
    """
    store = context.store
    with store.owners.taking("teachers", name, context.owner, store.teachers.has) as may:
        if not may:
            raise TeacherExists(name)
        context.need_lease()
        yield


def own_student(context: JobContext, version: str) -> None:
    """Note whose student this will be; no two jobs make the same version.

    Raises:
        JobStopped: the job is not this attempt's any more.
    """
    context.need_lease()
    context.store.owners.add("students", version, context.owner)


def own_transfer_set(context: JobContext, digest: str) -> None:
    """Note that the job's owner has this set, too, which need not be there yet.

    Nobody learns anything by this that they could not ask for: the set's digest names its teacher and its
    dataset, and the job was refused at submission where its owner did not see both.
    """
    context.store.owners.add("transfer_sets", digest, context.owner)
