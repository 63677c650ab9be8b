"""A teacher that was read and not yet tried: kept in the job's own folder as the store would keep it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from services.worker.stages import outcomes
from shared.artefacts.teachers import WEIGHTS, TeacherStore
from shared.artefacts.tensors import Array, tensors_to_bytes
from shared.contracts.findings import Finding
from shared.contracts.images import Preprocessing
from shared.contracts.specs import TeacherImportSpec
from shared.contracts.teachers import TeacherDescription, TeacherModel

_FINDINGS: Final = "findings.json"
_TEACHERS: Final = "teachers"


@dataclass(frozen=True)
class Read:
    """What a source turned out to be."""

    model: TeacherModel
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    source: str
    """Where it comes from, in words."""
    tensors: Mapping[str, Array] = field(default_factory=dict)
    """Of nets, each with a leading dimension of members."""
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    """Of other models, by name."""
    findings: tuple[Finding, ...] = ()


class _Findings(BaseModel):
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Draft:
    """A teacher in the folder of a stage."""

    store: TeacherStore
    description: TeacherDescription
    findings: tuple[Finding, ...]
    """Of reading it."""


def write_draft(directory: Path, spec: TeacherImportSpec, job_id: str, read: Read) -> None:
    """Keep what was read in the folder of a stage that is being built."""
    files = dict(read.files)
    if read.tensors:
        files[WEIGHTS] = tensors_to_bytes(read.tensors)
    store = TeacherStore(directory / _TEACHERS)
    description = store.publish(
        name=spec.name,
        model=read.model,
        files=files,
        classes=read.classes,
        preprocessing=read.preprocessing,
        precision=spec.source.precision,
        test_accuracy=None,
        source=read.source,
        job_id=job_id,
        created_at=datetime.now(UTC),
    )
    store.make_current(spec.name, description.digest)
    outcomes.save(directory / _FINDINGS, _Findings(findings=read.findings))


def load_draft(directory: Path, spec: TeacherImportSpec) -> Draft:
    """Return what an earlier stage has read."""
    store = TeacherStore(directory / _TEACHERS)
    findings = outcomes.load(directory / _FINDINGS, _Findings).findings
    return Draft(store, store.current(spec.name), findings)
