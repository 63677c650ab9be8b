"""The store of teachers: `teachers/<name>/<digest>/{teacher.json, model.safetensors}` and `current.json`."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from shared.artefacts.files import digest_of, publish_directory, sha256_bytes, sha256_file, write_atomic
from shared.artefacts.names import is_name
from shared.artefacts.tensors import Array, read_tensors, tensors_to_bytes
from shared.contracts.architectures import Architecture
from shared.contracts.base import Contract, Digest
from shared.contracts.images import Preprocessing
from shared.contracts.specialists import Combination
from shared.contracts.teachers import TeacherDescription
from shared.errors import Corrupt, TeacherNotFound

DESCRIPTION = "teacher.json"
WEIGHTS = "model.safetensors"
CURRENT = "current.json"


class _Current(Contract):
    """Which teacher of a name answers."""

    digest: Digest


class TeacherStore:
    """Teachers by name. A digest never changes; which digest a name stands for may."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def publish(
        self,
        *,
        name: str,
        tensors: Mapping[str, Array],
        architecture: Architecture,
        members: int,
        merge: Literal["geometric", "arithmetic"],
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        test_accuracy: float | None,
        job_id: str | None,
        created_at: datetime,
        specialists: Combination | None = None,
    ) -> TeacherDescription:
        """Store a teacher beside the others of its name; `make_current` lets it answer.

        Publishing the same weights and answer-changing fields again returns the description already stored.

        Raises:
            ValidationError: the fields make no description, such as a name that is none.
        """
        data = tensors_to_bytes(tensors)
        draft = TeacherDescription(
            name=name,
            digest="0" * 64,
            architecture=architecture,
            members=members,
            merge=merge,
            specialists=specialists,
            classes=classes,
            preprocessing=preprocessing,
            test_accuracy=test_accuracy,
            job_id=job_id,
            created_at=created_at,
        )
        digest = teacher_digest(draft, sha256_bytes(data))
        description = draft.model_copy(update={"digest": digest})

        def build(directory: Path) -> None:
            write_atomic(directory / WEIGHTS, data)
            write_atomic(directory / DESCRIPTION, description.model_dump_json(indent=2).encode())

        if publish_directory(self._directory(name, digest), build):
            return description
        return self._read(name, digest)

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

    def names(self) -> list[str]:
        """Return the names under which a teacher answers, sorted."""
        if not self._root.is_dir():
            return []
        return sorted(
            path.parent.name for path in self._root.glob(f"*/{CURRENT}") if is_name(path.parent.name)
        )

    def weights_path(self, description: TeacherDescription) -> Path:
        """Return the file of the weights after comparing it, and the description, with the digest.

        Raises:
            TeacherNotFound: the teacher was never published.
            Corrupt: weights or description are not what the digest says.
        """
        path = self._directory(description.name, description.digest) / WEIGHTS
        try:
            weights = sha256_file(path)
        except FileNotFoundError:
            raise TeacherNotFound(description.name) from None
        if teacher_digest(description, weights) != description.digest:
            raise Corrupt(str(path))
        return path

    def load(self, description: TeacherDescription) -> dict[str, Array]:
        """Return the weights as views on the mapped file, checked as `weights_path` does."""
        tensors, _ = read_tensors(self.weights_path(description))
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


def teacher_digest(description: TeacherDescription, weights_sha256: str) -> str:
    """Return the digest of all that changes the answer; name, job, time and accuracy do not."""
    fields = description.model_dump(
        mode="json", include={"format", "architecture", "members", "merge", "classes", "preprocessing"}
    )
    if description.specialists is not None:  # teachers without any keep the digest that they had
        fields["specialists"] = description.specialists.model_dump(mode="json")
    return digest_of({**fields, "weights": weights_sha256})
