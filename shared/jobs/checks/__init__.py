"""What can be refused before a job costs anything: at submission, and again in the job's check stage.

A module a kind; what several kinds ask is in `common`. A built-in dataset that was never used has no manifest
yet: what depends on one is checked by the worker, which has made it by then.
"""

from collections.abc import Callable
from typing import Any, Final

from shared.contracts.specs import MADE_BY, JobSpec, SpecialistsSpec, TeacherImportSpec, TeacherSpec
from shared.contracts.training import TransferSetSpec
from shared.errors import MadeByAnotherJob
from shared.jobs.checks import (
    brought_teacher,
    distillation,
    peers,
    redistillation,
    specialists,
    sweep,
    teacher,
    transfer_set_job,
)
from shared.jobs.checks.distillation import check_distillation
from shared.jobs.checks.teacher import check_teacher
from shared.jobs.ports import Catalogue

__all__ = ["CHECKS", "check", "check_distillation", "check_submitted", "check_teacher"]

CHECKS: Final[dict[str, Callable[[Any, Catalogue], None]]] = {
    "teacher": teacher.check,
    "distillation": distillation.check,
    "self_distillation": peers.check,
    "mutual": peers.check,
    "codistillation": peers.check,
    "specialists": specialists.check,
    "sweep": sweep.check,
    "redistillation": redistillation.check,
    "teacher_import": brought_teacher.check_import,
    "teacher_check": brought_teacher.check_check,
    "specialist": teacher.check,
    "codistillation_member": peers.check,
    "sweep_trials": teacher.check,
    "transfer_set": transfer_set_job.check,
    "transfer_set_shards": transfer_set_job.check,
}
"""By the spec's `kind`; each takes the spec of that kind."""

MAKES_TEACHER: Final = (TeacherSpec, TeacherImportSpec, SpecialistsSpec)
"""The kinds that publish a teacher under the name of their order."""


def check(spec: JobSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well; which errors, the kind's module says."""
    CHECKS[spec.kind](spec, catalogue)


def check_submitted(spec: JobSpec, catalogue: Catalogue) -> None:
    """Raise where the job cannot end well, or is no business of who submits it.

    Raises:
        MadeByAnotherJob: only jobs of another kind make jobs of this one, as their children.
        TeacherExists: it makes a teacher whose name is another owner's.
        StudentNotFound: the student that is to disagree with the teacher does not exist.
    """
    if spec.kind in MADE_BY:
        raise MadeByAnotherJob(spec.kind, MADE_BY[spec.kind])
    if isinstance(spec, MAKES_TEACHER):
        catalogue.need_teacher_name(spec.name)
    wanted: TransferSetSpec | None = getattr(spec, "transfer_set", None)
    if wanted is not None and wanted.choose is not None and wanted.choose.student is not None:
        catalogue.student(wanted.choose.student)
    check(spec, catalogue)
