"""A teacher is trained while its disk fills up, and again once there is room.

A job that failed is final, and whoever submits it again begins anew. The second attempt at the same job shows
what the checkpoint that was kept is worth.

`python -m tests.chaos.full_disk DISK` prints what became of it as JSON; `test_training_faults.py` mounts a
small file system on DISK.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

from services.worker import training_process
from services.worker.protocol import EXIT_FAILED, EXIT_SUCCEEDED, ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext
from shared.artefacts.checkpoints import last_checkpoint
from shared.artefacts.store import ArtefactStore
from tests.chaos.test_training_faults import TEACHER, add_shapes


def main() -> None:
    torch.set_num_threads(1)
    disk = Path(sys.argv[1])
    ballast = disk / "ballast"
    code, detail, _ = trained(disk, "undisturbed")
    assert code == "", detail
    expected = weights(disk)

    def fill_after_two_epochs(message: ChildMessage) -> None:
        if message.progress is not None and message.progress.stage == "train" and message.progress.done == 2:
            fill(ballast)

    code, detail, _ = trained(disk, "disturbed", fill_after_two_epochs)
    checkpoints = ArtefactStore(disk / "store").job("disturbed").checkpoints
    found = last_checkpoint(checkpoints)
    temporaries = [path for path in checkpoints.rglob(".*") if path.is_file()]
    ballast.unlink(missing_ok=True)
    told: list[int] = []

    def note(message: ChildMessage) -> None:
        if message.progress is not None and message.progress.stage == "train" and message.progress.done:
            told.append(message.progress.done)

    again, why, _ = trained(disk, "disturbed", note)
    assert again == "", why
    print(
        json.dumps(
            {
                "code": code,
                "detail": detail,
                "readable": found.state["epoch"] if found is not None else 0,
                "temporaries": len(temporaries),
                "identical": weights(disk) == expected,
                "resumed_from": told[0] - 1,
            }
        )
    )


def trained(disk: Path, job_id: str, hear: object = None) -> tuple[str, str, int]:
    """Run one attempt; return the failure's code and words, empty where there is none, and the status."""
    sent: list[ChildMessage] = []

    def send(message: ChildMessage) -> None:
        sent.append(message)
        if callable(hear):
            hear(message)

    settings = WorkerSettings(state_dir=disk, checkpoint_s=0, device="cpu")
    order = ChildOrder(job_id=job_id, epoch=1, attempts=1, spec=TEACHER)
    store = ArtefactStore(settings.store_dir)
    if job_id == "undisturbed":
        add_shapes(store)
    status = training_process._run(JobContext(order, settings, store, send))
    assert status in (EXIT_SUCCEEDED, EXIT_FAILED), "the process died"
    failure = sent[-1].failure
    return ("", "", status) if failure is None else (failure.code, failure.detail, status)


def fill(ballast: Path) -> None:
    """Take every byte that is left."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def weights(disk: Path) -> str:
    """Return the digest of the weights that the name of the teacher stands for."""
    store = ArtefactStore(disk / "store")
    file = store.teachers.file(store.teachers.current(TEACHER.name), "model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
