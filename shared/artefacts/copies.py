"""Copies of nets that the members of a cohort leave for each other in the artefact store.

`<root>/<seed>/<member>.json` points to a member's newest copy and holds its digest. Whoever reads never
waits: a copy that is missing or damaged is as good as none.
"""

from pathlib import Path

from pydantic import Field, ValidationError

from shared.artefacts.files import sha256_bytes, write_atomic
from shared.contracts.base import Contract, Digest

_KEPT = 3
"""Copies of a member that stay: a reader may still be at the one before."""
_TRIES = 3


class _Pointer(Contract):
    epoch: int = Field(ge=0)
    sha256: Digest


class CopyExchange:
    """The copies of one cohort. Safe for several processes, of which each writes for one member alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def leave(self, seed: int, member: int, epoch: int, copy: bytes) -> None:
        """Leave a member's copy as it is after so many epochs, unless a later or equal one lies there.

        Raises:
            OSError: the disk is full; the copy before is untouched.
        """
        known = self._pointer(seed, member)
        if known is not None and known.epoch >= epoch:
            return
        path = self._file(seed, member, epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, copy)
        pointer = _Pointer(epoch=epoch, sha256=sha256_bytes(copy))
        write_atomic(self._pointer_file(seed, member), pointer.model_dump_json().encode())
        for old in sorted(path.parent.glob(f"{member}-*.safetensors"))[:-_KEPT]:
            old.unlink(missing_ok=True)

    def newest(self, seed: int, member: int) -> tuple[int, bytes] | None:
        """Return a member's newest whole copy and its epoch, or None where there is none."""
        for _ in range(_TRIES):  # the one that was pointed to may be replaced meanwhile
            pointer = self._pointer(seed, member)
            if pointer is None:
                return None
            try:
                copy = self._file(seed, member, pointer.epoch).read_bytes()
            except FileNotFoundError:
                continue
            if sha256_bytes(copy) == pointer.sha256:
                return pointer.epoch, copy
        return None

    def _pointer(self, seed: int, member: int) -> _Pointer | None:
        try:
            return _Pointer.model_validate_json(self._pointer_file(seed, member).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def _pointer_file(self, seed: int, member: int) -> Path:
        return self._root / str(seed) / f"{member}.json"

    def _file(self, seed: int, member: int, epoch: int) -> Path:
        return self._root / str(seed) / f"{member}-{epoch:06d}.safetensors"
