"""What a checkpoint of a cohort holds. How it lies on disk: `artefacts/test_checkpoints.py`."""

import pytest
import torch

from shared.artefacts.checkpoints import CheckpointFolder
from shared.distillation.checkpoint import CohortCheckpoint, CohortState
from shared.distillation.records import NetRecord

TRAINING, OTHER = "a" * 64, "b" * 64


def state(epoch: int, training: str = TRAINING) -> CohortState:
    return CohortState(training=training, epoch=epoch, step=0, seconds=1.5, threads=1, nets=(NetRecord(),))


def tensors(epoch: int) -> dict[str, torch.Tensor]:
    return {"weights/a": torch.full((2, 3), float(epoch))}


@pytest.fixture
def checkpoint(tmp_path):
    checkpoint = CohortCheckpoint(tmp_path / "checkpoints", TRAINING)
    for epoch in (1, 2, 3):
        checkpoint.save(state(epoch), tensors(epoch))
    return checkpoint


def test_the_newest_is_read_and_two_are_kept(checkpoint):
    found, read = checkpoint.newest()
    assert found == state(3)
    assert torch.equal(read["weights/a"], tensors(3)["weights/a"])
    assert len(list(checkpoint.directory.iterdir())) == 4


def test_a_broken_one_gives_way_to_the_one_before(checkpoint):
    (weights,) = checkpoint.directory.glob("00000003-*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    found, read = checkpoint.newest()
    assert found.epoch == 2
    assert read["weights/a"][0, 0] == 2


def test_where_all_are_broken_training_starts_anew(checkpoint):
    for weights in checkpoint.directory.glob("*.safetensors"):
        weights.write_bytes(b"")
    assert checkpoint.newest() is None


def test_an_empty_or_missing_folder_has_none(tmp_path):
    assert CohortCheckpoint(tmp_path, TRAINING).newest() is None
    assert CohortCheckpoint(tmp_path / "missing", TRAINING).newest() is None


def test_another_training_finds_nothing_in_it(checkpoint):
    assert CohortCheckpoint(checkpoint.directory, OTHER).newest() is None


def test_a_checkpoint_of_another_format_is_none_of_ours(checkpoint):
    """One that an earlier version wrote: training starts anew in place of failing."""
    folder = CheckpointFolder(checkpoint.directory)
    folder.save({**state(4).model_dump(mode="json"), "format": 2}, b"")
    assert checkpoint.newest()[0].epoch == 3
