"""Small transfer sets of noise, written by the real writer, with the summary that the worker leaves."""

from datetime import datetime

import numpy as np

from shared.artefacts.files import digest_of
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.training import TransferSetSpec
from shared.contracts.transfer_sets import TRANSFER_SET_SUMMARY, TransferSetCost
from shared.transfer_set.format import (
    MANIFEST,
    TransferSetInputs,
    TransferSetManifest,
    preprocessing_digest,
)
from shared.transfer_set.selection import select_rows
from shared.transfer_set.store import TransferSetStore
from shared.transfer_set.summary import summarise_stored

CLASSES = ("ant", "bee", "cat")
GREY = ImageInput(height=6, width=5, channels=1)
IMAGES = 40
LABELS = np.arange(IMAGES, dtype=np.int64) % len(CLASSES)


def inputs_of(**changes: object) -> TransferSetInputs:
    """Return what a set of 40 images in 2 views is made of."""
    fields: dict[str, object] = {
        "dataset_digest": digest_of("noise"),
        "input": GREY,
        "rows": IMAGES,
        "teacher": "big",
        "teacher_digest": digest_of("big"),
        "preprocessing_digest": preprocessing_digest(Preprocessing(input=GREY, mean=(0.1,), std=(0.3,))),
        "classes": CLASSES,
        "spec": TransferSetSpec(views=2, jitter_px=1),
        "tempers": True,
    }
    return TransferSetInputs.model_validate({**fields, **changes})


def write_set(
    store: TransferSetStore, *, created_at: datetime | None = None, shard_rows: int = 32, **changes: object
) -> TransferSetManifest:
    """Fill and finish a set in shards of 32 rows; without a summary, as older ones are."""
    inputs = inputs_of(**changes)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 6, 5, 1), dtype=np.uint8)
    selection = select_rows(inputs.spec, LABELS, CLASSES, images=IMAGES)
    writer = store.writer(inputs, images=images, selection=selection, shard_rows=shard_rows)
    for number in writer.missing_shards():
        asked = writer.batch(number).images.reshape(-1, 30)
        writer.write_shard(number, asked[:, : len(CLASSES)].astype(np.float32) / 32)
    manifest = writer.finish()
    if created_at is not None:
        manifest = manifest.model_copy(update={"created_at": created_at})
        store.file(manifest.digest, MANIFEST).write_text(manifest.model_dump_json())
    return manifest


def add_summary(store: TransferSetStore, manifest: TransferSetManifest, cost: TransferSetCost) -> None:
    """Leave the figures beside the shards, and a plot."""
    summary = summarise_stored(store.set_files(manifest.digest), manifest, LABELS, cost=cost)
    store.put_file(manifest.digest, TRANSFER_SET_SUMMARY, summary.model_dump_json().encode())
    store.put_file(manifest.digest, "entropy.png", b"png")
    store.put_file(manifest.digest, "entropy.svg", b"<svg/>")
