"""The store of teachers: `teachers/<name>/<digest>/`: `teacher.json` and its files; and `current.json`."""

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NotRequired, TypedDict, Unpack

from pydantic import ValidationError

from shared.artefacts.files import digest_of, publish_directory, sha256_bytes, sha256_file, write_atomic
from shared.artefacts.names import is_name
from shared.artefacts.tensors import Array, read_tensors, tensors_to_bytes
from shared.contracts.base import Contract, Digest
from shared.contracts.images import Preprocessing
from shared.contracts.teachers import Nets, Precision, TeacherDescription, TeacherModel
from shared.errors import Corrupt, TeacherNotFound

DESCRIPTION = "teacher.json"
WEIGHTS = "model.safetensors"
CURRENT = "current.json"


class _Current(Contract):
    """Which teacher of a name answers."""

    digest: Digest


class _Described(TypedDict):
    """What every teacher is described by, whatever answers."""

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    test_accuracy: float | None
    job_id: str | None
    created_at: datetime
    precision: NotRequired[Precision]
    source: NotRequired[str]


class TeacherStore:
    """Teachers by name. A digest never changes; which digest a name stands for may."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def publish(
        self,
        *,
        name: str,
        model: TeacherModel,
        files: Mapping[str, bytes | Path],
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        test_accuracy: float | None,
        job_id: str | None,
        created_at: datetime,
        precision: Precision = "float32",
        source: str = "",
    ) -> TeacherDescription:
        """Store a teacher beside the others of its name; `make_current` lets it answer.

        Publishing the same files and answer-changing fields again returns the description already stored.

        Args:
            name: of the teacher.
            model: what answers.
            files: of the model, each as its bytes or as a file that is copied.
            classes: in the order of the logits.
            preprocessing: how pixels become what the net sees.
            test_accuracy: as its job measured it.
            job_id: of that job.
            created_at: now.
            precision: of the products inside the nets.
            source: where it comes from, in words.

        Raises:
            ValidationError: the fields make no description, such as a name that is none.
        """
        draft = TeacherDescription(
            name=name,
            digest="0" * 64,
            model=model,
            files={
                file: sha256_bytes(content) if isinstance(content, bytes) else sha256_file(content)
                for file, content in sorted(files.items())
            },
            classes=classes,
            preprocessing=preprocessing,
            precision=precision,
            test_accuracy=test_accuracy,
            source=source,
            job_id=job_id,
            created_at=created_at,
        )
        description = draft.model_copy(update={"digest": teacher_digest(draft)})

        def build(directory: Path) -> None:
            for file, content in files.items():
                if isinstance(content, bytes):
                    write_atomic(directory / file, content)
                else:
                    shutil.copyfile(content, directory / file)
            write_atomic(directory / DESCRIPTION, description.model_dump_json(indent=2).encode())

        if publish_directory(self._directory(name, description.digest), build):
            return description
        return self._read(name, description.digest)

    def publish_nets(
        self, *, model: Nets, tensors: Mapping[str, Array], **described: Unpack[_Described]
    ) -> TeacherDescription:
        """Store nets by their tensors, each with the leading dimension that `model` says; see `publish`."""
        return self.publish(model=model, files={WEIGHTS: tensors_to_bytes(tensors)}, **described)

    def make_current(self, name: str, digest: str) -> None:
        """Let the teacher of this digest answer under its name, from now on.

        Raises:
            TeacherNotFound: nothing was published under this name and digest.
        """
        self._read(name, digest)
        write_atomic(self._root / name / CURRENT, _Current(digest=digest).model_dump_json().encode())

    def current(self, name: str) -> TeacherDescription:
        """Return the description of the teacher that answers under a name.

        Raises:
            TeacherNotFound: there is none.
            Corrupt: its files contradict each other.
        """
        if not is_name(name):
            raise TeacherNotFound(name)
        path = self._root / name / CURRENT
        try:
            digest = _Current.model_validate_json(path.read_bytes()).digest
        except FileNotFoundError:
            raise TeacherNotFound(name) from None
        except ValidationError as error:
            raise Corrupt(str(path)) from error
        return self._read(name, digest)

    def described(self, name: str, digest: str) -> TeacherDescription:
        """Return the description of a certain teacher, whether or not it is the one that answers.

        Raises:
            TeacherNotFound: nothing was published under this name and digest.
            Corrupt: its files contradict each other.
        """
        if not is_name(name):
            raise TeacherNotFound(name)
        return self._read(name, digest)

    def has(self, name: str) -> bool:
        """Tell whether anything was published under this name, whether or not it answers yet."""
        return is_name(name) and (self._root / name).is_dir()

    def names(self) -> list[str]:
        """Return the names under which a teacher answers, sorted."""
        if not self._root.is_dir():
            return []
        return sorted(
            path.parent.name for path in self._root.glob(f"*/{CURRENT}") if is_name(path.parent.name)
        )

    def file(self, description: TeacherDescription, name: str) -> Path:
        """Return a file of the model after comparing it, and the description, with the digest.

        Raises:
            TeacherNotFound: the teacher was never published.
            Corrupt: file or description are not what the digest says.
        """
        path = self._directory(description.name, description.digest) / name
        if name not in description.files:
            raise Corrupt(str(path))
        try:
            found = sha256_file(path)
        except FileNotFoundError:
            raise TeacherNotFound(description.name) from None
        if found != description.files[name] or teacher_digest(description) != description.digest:
            raise Corrupt(str(path))
        return path

    def load(self, description: TeacherDescription) -> dict[str, Array]:
        """Return the weights of nets as views on the mapped file, checked as `file` does."""
        tensors, _ = read_tensors(self.file(description, WEIGHTS))
        return tensors

    def _read(self, name: str, digest: str) -> TeacherDescription:
        path = self._directory(name, digest) / DESCRIPTION
        try:
            description = TeacherDescription.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise TeacherNotFound(name) from None
        except ValidationError as error:
            raise Corrupt(str(path)) from error
        if (description.name, description.digest) != (name, digest):
            raise Corrupt(str(path))
        return description

    def _directory(self, name: str, digest: str) -> Path:
        return self._root / name / digest


def teacher_digest(description: TeacherDescription) -> str:
    """Return the digest of all that changes the answer; name, source, job, time and accuracy do not."""
    answer_changing = {"format", "model", "files", "classes", "preprocessing", "precision"}
    return digest_of(description.model_dump(mode="json", include=answer_changing))
