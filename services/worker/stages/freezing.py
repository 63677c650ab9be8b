"""The freeze stage: kept images become training images of a dataset that never changes again."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext, seconds_of
from shared.artefacts.datasets import NO_LABEL, Split
from shared.contracts.datasets import DatasetManifest
from shared.contracts.jobs import Stage
from shared.contracts.kept import Frozen
from shared.contracts.specs import RedistillationSpec
from shared.errors import DatasetExists, DatasetNotFound, NothingNewKept

_OUTCOME: Final = "frozen.json"


@dataclass(frozen=True)
class _Sorted:
    """Kept images, sorted by what the base has of them."""

    fresh: NDArray[np.uint8]
    known: int
    held_out: int


def freeze(
    context: JobContext, spec: RedistillationSpec, base: str, manifest: DatasetManifest
) -> tuple[Frozen, float]:
    """Store the base dataset with the kept images among its training images, unless this job did so before.

    Images that the base validates or tests with are left out: people like to send them, and a student that
    learned them would be overrated.

    Args:
        context: of the job.
        spec: names the collection, and the dataset that is made.
        base: name of the dataset that the student learned from.
        manifest: of the base.

    Returns:
        What was frozen, and how long that took in seconds.

    Raises:
        KeptNotFound: the collection does not exist.
        NothingNewKept: it has no image of these classes and this size that the base does not have.
        DatasetExists: the name belongs to a dataset that this job did not make.
    """

    def build(directory: Path) -> None:
        outcomes.save(directory / _OUTCOME, _frozen(context, spec, base, manifest))

    inputs: dict[str, JsonValue] = {"collection": spec.collection, "base": manifest.digest}
    path = context.once(Stage.FREEZE, inputs, build)
    return outcomes.load(path / _OUTCOME, Frozen), seconds_of(path)


def _frozen(context: JobContext, spec: RedistillationSpec, base: str, manifest: DatasetManifest) -> Frozen:
    made = _made_before(context, spec.dataset)
    if made is not None:
        return made
    context.progress(Stage.FREEZE, 0, 3, "steps")
    kept = context.store.kept.load(spec.collection, manifest.input, manifest.classes)
    if not len(kept):
        raise NothingNewKept(
            spec.collection, f"none has the size and the classes of dataset {base!r}, which the student is of"
        )
    context.progress(Stage.FREEZE, 1, 3, "steps")
    splits = {split: context.store.datasets.load(base, split) for split in ("train", "validation", "test")}
    found = _sorted(kept, splits)
    if not len(found.fresh):
        raise NothingNewKept(
            spec.collection,
            f"{found.known:,} are training images of dataset {base!r}, {found.held_out:,} validate or test",
        )
    context.progress(Stage.FREEZE, 2, 3, "steps")
    frozen = Frozen(
        collection=spec.collection,
        base=base,
        base_digest=manifest.digest,
        job_id=context.job_id,
        taken=len(found.fresh),
        known=found.known,
        held_out=found.held_out,
    )
    store = context.store
    with store.owners.taking("datasets", spec.dataset, context.owner, store.datasets.has) as may:
        if not may:
            raise DatasetExists(spec.dataset)
        context.need_lease()
        store.datasets.put(
            spec.dataset,
            {**splits, "train": _joined(splits["train"], found.fresh)},
            classes=manifest.classes,
            source=f"{base!r} and {len(found.fresh):,} images kept as {spec.collection!r}, without labels",
            frozen=frozen,
        )
    context.progress(Stage.FREEZE, 3, 3, "steps", {"taken": frozen.taken, "held_out": frozen.held_out})
    return frozen


def _made_before(context: JobContext, name: str) -> Frozen | None:
    try:
        frozen = context.store.datasets.get(name).frozen
    except DatasetNotFound:
        return None
    if frozen is None or frozen.job_id != context.job_id:
        raise DatasetExists(name)
    return frozen


def _sorted(kept: NDArray[np.uint8], splits: dict[str, Split]) -> _Sorted:
    held_out = {*_digests(splits["validation"].images), *_digests(splits["test"].images)}
    known = {*_digests(splits["train"].images)} - held_out
    digests = _digests(kept)
    fresh = [digest not in held_out and digest not in known for digest in digests]
    return _Sorted(
        fresh=kept[np.array(fresh)],
        known=sum(digest in known for digest in digests),
        held_out=sum(digest in held_out for digest in digests),
    )


def _digests(images: NDArray[np.uint8]) -> list[bytes]:
    # Of a large dataset these fit into memory, and its pixels might not.
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def _joined(train: Split, fresh: NDArray[np.uint8]) -> Split:
    labels = None
    if train.labels is not None:
        labels = np.concatenate([train.labels, np.full(len(fresh), NO_LABEL, np.int64)])
    return Split(np.concatenate([train.images, fresh]), labels)
