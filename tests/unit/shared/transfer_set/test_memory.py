"""What a writer holds does not grow with the set. At a million rows: benchmarks/transfer_set.py."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from shared.contracts.images import ImageInput
from shared.contracts.training import TransferSetSpec
from shared.transfer_set.selection import select_rows
from shared.transfer_set.store import TransferSetStore
from tests.unit.shared.transfer_set.conftest import make_inputs


def most_bytes(folder: Path, images: int, *, known: bool) -> int:
    """Return the most memory that building a set of two views takes beyond what it began with."""
    folder.mkdir(exist_ok=True)
    pixels = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (images, 4, 4, 1))
    pixels[:] = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    spec = TransferSetSpec(views=2, jitter_px=1, label_share=0.5 if known else 1.0)
    inputs = make_inputs(input=ImageInput(height=4, width=4, channels=1), rows=images, spec=spec)
    store = TransferSetStore(str(folder / "sets"), folder / "cache")
    tracemalloc.start()
    selection = select_rows(spec, None, inputs.classes, images=images)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    writer = store.writer(
        inputs, images=pixels, selection=selection, known=store.known(inputs), shard_rows=512
    )
    for number in writer.missing_shards():
        batch = writer.batch(number)
        assert len(batch.rows) == (0 if known else writer.rows_in(number))
        writer.write_shard(number, batch.images.reshape(len(batch.images), 16)[:, :10].astype(np.float16))
    writer.finish()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most - before


@pytest.mark.parametrize("known", [False, True])
def test_four_times_the_rows_take_no_more_memory(
    tmp_path: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve shards more: a few KiB of names, maps and digests each. To hold the digests of all images would
    be 48 KiB, their views 141 KiB, keys of all rows 234 KiB."""
    monkeypatch.setattr("shared.transfer_set.key_index._BUCKET_ROWS", 512)
    few, many = 1024, 4096
    most = {}
    for images in (few, many, few):  # what is made once is made the first time
        folder = tmp_path / f"{images}-{images in most}"
        if known:
            most_bytes(folder, images, known=False)
        most[images] = most_bytes(folder, images, known=known)
    assert most[many] - most[few] < 12 * (6144 if known else 2048)
