"""Reads an upload into the store in a process of its own, so that a hostile file can harm only that process.

`python -m shared.datasets.ingest [PID of the parent to die with]` takes an `IngestOrder` as JSON on stdin and
answers one line of JSON: the manifest (exit 0), or the code, detail and remedy of a refusal (exit 65).
"""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from shared.artefacts.room import room
from shared.artefacts.store import ArtefactStore
from shared.contracts.base import Contract, Name
from shared.contracts.datasets import BUILTIN_DATASETS, DatasetManifest
from shared.datasets.limits import UploadLimits
from shared.datasets.uploads import read_upload
from shared.errors import DatasetExists, DistillationError, InvalidDataset

REFUSED: Final = 65
_PR_SET_PDEATHSIG: Final = 1
_KEPT_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH")
_SMALLER = "Send a smaller dataset, or ask for a smaller size."


class IngestFile(Contract):
    """A file of the upload: where it lies, and the name it was sent under."""

    path: Path
    name: str


class IngestOrder(Contract):
    """What to read, and under which name to store it."""

    store: Path
    """Root of the artefact store."""
    name: str
    files: tuple[IngestFile, ...]
    limits: UploadLimits = UploadLimits()
    size: tuple[int, int] | None = None
    """Height and width to which all images are resized; all must be of one size if null."""
    labels_required: bool = False
    owner: Name | None = None
    """Whose the dataset is to be; None where keys are switched off."""
    memory_limit_bytes: int | None = Field(default=None, ge=1)
    """Of the process's address space; set by `ingest_in_child`."""


def ingest(order: IngestOrder) -> DatasetManifest:
    """Read an upload and store it, in this process.

    Raises:
        InvalidDataset, InvalidImage, ImageTooLarge, LabelsMissing: see `uploads.read_upload`.
        DatasetExists: the name belongs to a built-in dataset, or to one with other content or of another
            owner.
        StoreFull: the disk is.
    """
    if order.name in BUILTIN_DATASETS:
        raise DatasetExists(order.name)
    splits, classes, source = read_upload(
        [file.path for file in order.files],
        [file.name for file in order.files],
        order.limits,
        size=order.size,
        labels_required=order.labels_required,
    )
    store = ArtefactStore(order.store)
    with (
        room(store.root / "datasets" / order.name),
        store.owners.taking("datasets", order.name, order.owner, store.datasets.has) as may,
    ):
        if not may:
            raise DatasetExists(order.name)
        return store.datasets.put(order.name, splits, classes=classes, source=source)


def ingest_in_child(order: IngestOrder, timeout_s: float, memory_limit_bytes: int) -> DatasetManifest:
    """Read an upload and store it, in a child process that dies with this one.

    Args:
        order: what to read.
        timeout_s: the child is killed after so many seconds.
        memory_limit_bytes: limit of the child's address space (RLIMIT_AS).

    Raises:
        DistillationError: of the same class, with the same words, as the child raised; `InvalidDataset` where
            the child ran out of time or memory.
        RuntimeError: the child failed for a reason that is not the upload's; its last words are told.
    """
    order = order.model_copy(update={"memory_limit_bytes": memory_limit_bytes})
    root = str(Path(__file__).resolve().parents[2])
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    # One thread and the system's allocator: others reserve address space that the limit would count.
    environment |= {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    with subprocess.Popen(  # noqa: S603  (our own interpreter and module; the order goes by stdin)
        [sys.executable, "-m", "shared.datasets.ingest", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as child:
        try:
            answer, last_words = child.communicate(order.model_dump_json().encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise InvalidDataset(
                f"the upload could not be read within {timeout_s:g} s", remedy=_SMALLER
            ) from None
        finally:
            child.kill()
    if child.returncode == 0:
        return DatasetManifest.model_validate_json(answer)
    if child.returncode == REFUSED:
        raise error_of(json.loads(answer))
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise InvalidDataset(
            f"the upload could not be read with {memory_limit_bytes:,} bytes of memory ({name})",
            remedy=_SMALLER,
        )
    told = last_words.decode(errors="replace")[-2000:]
    raise RuntimeError(f"reading the upload failed with exit code {child.returncode}: {told}")


# --- errors across the pipe --------------------------------------------------------------------------------


def problem_of(error: DistillationError) -> dict[str, Any]:
    """Return an error as JSON: code, detail, remedy, and those of its facts that are plain values."""
    facts = {
        name: value for name, value in vars(error).items() if isinstance(value, str | int | float | None)
    }
    return {"code": error.code, "detail": str(error), "remedy": error.remedy, "facts": facts}


def error_of(problem: dict[str, Any]) -> DistillationError:
    """Return the error that `problem_of` described, of the same class."""
    classes = {found.code: found for found in _family(DistillationError)}
    kind = classes.get(problem["code"], DistillationError)
    # Not by its own constructor: each class takes other facts, and the words are already made.
    error = kind.__new__(kind)
    DistillationError.__init__(error, problem["detail"], remedy=problem["remedy"])
    vars(error).update(problem.get("facts", {}))
    return error


def _family(root: type[DistillationError]) -> Iterator[type[DistillationError]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)


# --- the child ---------------------------------------------------------------------------------------------


def main() -> int:
    """Carry out the order on stdin and return the exit code."""
    if len(sys.argv) > 1:
        _die_with(int(sys.argv[1]))
    order = IngestOrder.model_validate_json(sys.stdin.buffer.read())
    if order.memory_limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (order.memory_limit_bytes, order.memory_limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        manifest = ingest(order)
    except MemoryError:
        detail = f"the upload could not be read with {order.memory_limit_bytes or 0:,} bytes of memory"
        return _refuse(InvalidDataset(detail, remedy=_SMALLER))
    except DistillationError as error:
        return _refuse(error)
    sys.stdout.write(manifest.model_dump_json() + "\n")
    return 0


def _refuse(error: DistillationError) -> int:
    sys.stdout.write(json.dumps(problem_of(error)) + "\n")
    return REFUSED


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, and stop if that has happened already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit(1)


if __name__ == "__main__":
    raise SystemExit(main())
