"""What the flywheel's experiment sends, and what it says of what came back."""

from pathlib import Path

import numpy as np
import pytest

from experiments import flywheel, flywheel_traffic
from experiments.experiment import Form
from shared.artefacts.datasets import Split
from shared.contracts.evaluation import Verdict
from shared.contracts.kept import Frozen
from shared.contracts.succession import PairedComparison, Rival, Succession
from shared.datasets.idx_upload import read_idx_files
from shared.datasets.limits import UploadLimits


def digits(rows: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    return Split(
        rng.integers(0, 256, (rows, 28, 28, 1), dtype=np.uint8), np.arange(rows, dtype=np.int64) % 10
    )


def test_the_upload_is_the_splits_that_were_meant(tmp_path: Path):
    splits = {"train": digits(30, 1), "valid": digits(20, 2), "t10k": digits(10, 3)}
    files = [path for name, split in splits.items() for path in flywheel_traffic._idx(tmp_path, name, split)]
    read, classes = read_idx_files([(path, path.name) for path in files], UploadLimits())
    assert classes == tuple("0123456789")
    for name, split in zip(("train", "validation", "test"), splits.values(), strict=True):
        np.testing.assert_array_equal(read[name].images, split.images)
        np.testing.assert_array_equal(read[name].labels, split.labels)


def test_what_is_sent_is_nothing_that_the_first_student_knows():
    known, rest = flywheel_traffic._parts(digits(5_000, 4))
    assert len(known) == flywheel_traffic.KNOWN
    assert set(known).isdisjoint(rest)
    assert len(known) + len(rest) == 5_000


@pytest.mark.parametrize("promoted", [True, False])
def test_tables_of_the_succession_show_both_splits(promoted: bool):
    found = PairedComparison(
        verdict=Verdict.BEATS, gain=0.05, interval=(0.04, 0.06), p_value=1e-9, margin=0.001, method="paired",
        images=10_000, old_accuracy=0.9, new_accuracy=0.95, only_old=100, only_new=600,
    )  # fmt: skip
    frozen = Frozen(
        collection="c", base="b", base_digest="0" * 64, job_id="j-1", taken=4_000, known=1, held_out=200
    )
    rival = Rival(version="old-1", validation=found, test=found)
    succession = Succession(
        frozen=frozen, base=rival, incumbent=None, promoted=promoted, reason="so", live="new-1"
    )
    table = flywheel._table(succession)
    assert [row[1] for row in table.rows] == ["validation (decides)", "test (reports)"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert ("left out: validation or test images", "200") in flywheel._kept(succession).rows


def test_the_two_forms_keep_and_freeze_under_names_of_their_own():
    full, reduced = Form(), Form(reduced=True)
    for name in (flywheel.dataset, flywheel.collection, flywheel.frozen):
        assert name(full) != name(reduced)
