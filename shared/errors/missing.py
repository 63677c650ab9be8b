"""What was named is not there."""

from typing import Final

from shared.errors.root import DistillationError

_MOST_ROWS: Final = 12
"""Rows that a message names; the error has all."""
_MOST_FILES: Final = 24
"""Files of a bundle that a remedy names."""


class NotFound(DistillationError):
    """Something was named that does not exist."""


class JobNotFound(NotFound):
    """No job has this id."""

    remedy = "List jobs with GET /v1/jobs."

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}")
        self.job_id = job_id


class TeacherNotFound(NotFound):
    """No teacher has this name."""

    remedy = "Train one with a job of kind 'teacher', or list them with GET /v1/teachers."

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no teacher {name!r}")
        self.name = name


class IncomingNotFound(NotFound):
    """Neither an upload nor a folder of this name lies in `incoming` of the artefact store."""

    remedy = (
        "Send the files again: an upload is kept for a day. A folder must lie in `incoming` of the store."
    )

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no upload and no folder {name!r} in `incoming`")
        self.name = name


class StudentNotFound(NotFound):
    """No student has this version."""

    remedy = "List students with GET /v1/students."

    def __init__(self, version: str) -> None:
        super().__init__(f"there is no student {version!r}")
        self.version = version


class ModelNotFound(NotFound):
    """The Open Inference Protocol is asked about a model, or a version of it, that is not there.

    `known` are the names and versions that are.
    """

    def __init__(self, name: str, version: str | None, known: dict[str, tuple[str, ...]]) -> None:
        if version is not None:
            message = f"model {name[:64]!r} has no version {version[:128]!r}"
        elif name in known:
            message = f"model {name!r} has versions, and none of them is live"
        else:
            message = f"there is no model {name[:64]!r}"
        listed = "; ".join(_versions(model, versions) for model, versions in list(known.items())[:_MOST_ROWS])
        super().__init__(
            message,
            remedy=f"Name one that there is, at /v2/models/{{name}}/versions/{{version}}: {listed}."
            if known
            else "Promote a student first: POST /v1/students/{version}/promote.",
        )
        self.name = name
        self.version = version
        self.known = known


class DatasetNotFound(NotFound):
    """No dataset has this name."""

    remedy = "Upload it with POST /v1/datasets, or list datasets with GET /v1/datasets."

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no dataset {name!r}")
        self.name = name


class KeptNotFound(NotFound):
    """No images were kept under this name."""

    remedy = "List collections with GET /v1/kept; PUT /v1/traffic with `keeping` begins one."

    def __init__(self, name: str) -> None:
        super().__init__(f"no images are kept under {name!r}")
        self.name = name


class TransferSetNotFound(NotFound):
    """No finished transfer set has this digest."""

    remedy = "List transfer sets with GET /v1/transfer-sets."

    def __init__(self, digest: str) -> None:
        super().__init__(f"there is no transfer set {digest!r}")
        self.digest = digest


class FileNotInBundle(NotFound):
    """A bundle has no file of this name."""

    def __init__(self, bundle: str, name: str, known: tuple[str, ...]) -> None:
        names = ", ".join(known[:_MOST_FILES]) + (", …" if len(known) > _MOST_FILES else "")
        super().__init__(f"{bundle} has no file {name!r}", remedy=f"Its files are: {names}.")
        self.name = name


class CheckpointNotFound(NotFound):
    """A job has made no checkpoint, or has succeeded and keeps none."""

    remedy = (
        "Its training makes one every WORKER_CHECKPOINT_S seconds, and when it is cancelled or paused; a job "
        "that succeeded keeps none, for it has its result."
    )

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id!r} has no checkpoint")
        self.job_id = job_id


class ReportNotReady(NotFound):
    """A job has no report yet, or never will."""

    remedy = "Wait until the job's state is 'succeeded'; GET /v1/jobs/{id}/events says how far it is."

    def __init__(self, job_id: str, state: str, *, parent: str | None = None) -> None:
        if parent is None:
            super().__init__(f"job {job_id!r} has no report: its state is '{state}'")
        else:
            super().__init__(
                f"job {job_id!r} has no report of its own: it is part of job {parent!r}",
                remedy=f"Read the report of its parent: GET /v1/jobs/{parent}/report.",
            )
        self.job_id = job_id
        self.parent = parent


def _versions(model: str, versions: tuple[str, ...], most: int = 6) -> str:
    shown = ", ".join(versions[:most])
    return f"{model} ({shown}{', …' if len(versions) > most else ''})"
