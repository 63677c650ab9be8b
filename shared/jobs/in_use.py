"""What jobs that have not ended still need: transfer sets, students and uploads that may not be deleted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shared.contracts.base import Digest, Name
from shared.contracts.jobs import FINAL_STATES, JobState, JobView
from shared.contracts.specs import JobSpec, RedistillationSpec, SweepTrialsSpec
from shared.errors import Corrupt, DatasetNotFound, JobNotFound
from shared.jobs.ports import Catalogue
from shared.jobs.service import JobService

_PAGE = 100
_UNFINISHED = tuple(state for state in JobState if state not in FINAL_STATES)


@dataclass(frozen=True)
class WantedSet:
    """By what a job is known that may use a transfer set; None where a damaged manifest does not tell."""

    digest: Digest
    teacher: Name | None
    dataset_digest: Digest | None


def jobs_that_may_use(wanted: WantedSet, jobs: JobService, catalogue: Catalogue) -> tuple[str, ...]:
    """Return the ids of all jobs that have not ended and may read or fill this transfer set, oldest first.

    A job counts where it names the set's teacher and dataset, whatever views it asks for: a set that differs
    is filled from this one, as far as this one knows. A job on another dataset is not in the way; what it
    finds gone it asks the teacher about.

    Raises:
        JobStoreUnavailable: the jobs cannot be listed.
    """
    return tuple(job.id for job in _unfinished(jobs) if may_use(job.spec, wanted, catalogue))


def jobs_that_name_student(version: str, jobs: JobService) -> tuple[str, ...]:
    """Return the ids of all jobs that have not ended and whose order names this student, oldest first.

    Raises:
        JobStoreUnavailable: the jobs cannot be listed.
    """
    return tuple(job.id for job in _unfinished(jobs) if version in _named("student", job.spec.model_dump()))


def uploads_that_jobs_name(jobs: JobService) -> frozenset[str]:
    """Return the names of all uploads that the orders of jobs name which have not ended.

    Raises:
        JobStoreUnavailable: the jobs cannot be listed.
    """
    return frozenset(name for job in _unfinished(jobs) for name in _named("upload", job.spec.model_dump()))


def told(ids: Sequence[str], jobs: JobService, confined_to: str | None) -> tuple[str, ...]:
    """Return those of these jobs that a caller may hear of: their own, where they are confined to them."""
    return tuple(job_id for job_id in ids if confined_to is None or _is_of(job_id, jobs, confined_to))


def may_use(spec: JobSpec, wanted: WantedSet, catalogue: Catalogue) -> bool:
    """Tell whether a job of this spec may read or fill the transfer set."""
    if isinstance(spec, SweepTrialsSpec):
        return spec.transfer_set == wanted.digest
    if isinstance(spec, RedistillationSpec):
        # Its teacher is that of the student, and its dataset is there once it is frozen.
        return _may_be(spec.dataset, wanted.dataset_digest, catalogue)
    # By attribute rather than by kind, so that a kind of job that is added later counts as well.
    asked = {getattr(spec, "teacher", None), getattr(spec, "generalist", None)} - {None}
    dataset = getattr(spec, "dataset", None)
    if not asked or dataset is None:
        return False
    return wanted.teacher in {None, *asked} and _may_be(dataset, wanted.dataset_digest, catalogue)


def _may_be(dataset: str, digest: str | None, catalogue: Catalogue) -> bool:
    """Tell whether the dataset of this name may be that of this digest; what is not known counts as yes."""
    try:
        manifest = catalogue.dataset(dataset).manifest
    except (DatasetNotFound, Corrupt):
        return True
    return digest is None or manifest is None or manifest.digest == digest


def _named(word: str, order: dict[str, Any]) -> Iterator[str]:
    """Yield all that stands under a word in an order, however deep: by name, as kinds of job are added."""
    for key, value in order.items():
        if isinstance(value, dict):
            yield from _named(word, value)
        elif key == word and isinstance(value, str):
            yield value


def _is_of(job_id: str, jobs: JobService, owner: str) -> bool:
    try:
        return jobs.get(job_id).owner == owner
    except JobNotFound:  # it was removed a moment ago
        return False


def _unfinished(jobs: JobService) -> list[JobView]:
    # Twice around: a job that goes from one state to another meanwhile is not overlooked.
    found = {job.id: job for state in _UNFINISHED * 2 for job in _all(jobs, state)}
    return sorted(found.values(), key=lambda job: (job.created_at, job.id))


def _all(jobs: JobService, state: JobState) -> list[JobView]:
    found: list[JobView] = []
    cursor: str | None = None
    while True:
        page = jobs.list(state, None, cursor, _PAGE)
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return found
