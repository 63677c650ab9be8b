import pytest
import torch

from shared.distillation.checkpoint import CohortCheckpoint, CohortState
from shared.distillation.records import NetRecord

TRAINING, OTHER = "a" * 64, "b" * 64


def state(epoch: int, training: str = TRAINING) -> CohortState:
    return CohortState(training=training, epoch=epoch, step=0, seconds=1.5, nets=(NetRecord(),))


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
    assert sorted(path.name for path in checkpoint.directory.iterdir()) == [
        "00000002.json",
        "00000002.safetensors",
        "00000003.json",
        "00000003.safetensors",
    ]


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


BREAKAGES = {
    "a flipped bit in the weights": lambda d: flip(d / "00000003.safetensors"),
    "weights gone": lambda d: (d / "00000003.safetensors").unlink(),
    "killed before the manifest": lambda d: (d / "00000003.json").unlink(),
    "half a manifest": lambda d: (d / "00000003.json").write_text('{"state": '),
    "an empty manifest": lambda d: (d / "00000003.json").write_text(""),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_one_gives_way_to_the_one_before(checkpoint, breakage):
    BREAKAGES[breakage](checkpoint.directory)
    found, read = checkpoint.newest()
    assert found.epoch == 2
    assert read["weights/a"][0, 0] == 2


def test_where_all_are_broken_training_starts_anew(checkpoint):
    for number in (2, 3):
        flip(checkpoint.directory / f"{number:08d}.safetensors")
    assert checkpoint.newest() is None


def test_an_empty_or_missing_folder_has_none(tmp_path):
    assert CohortCheckpoint(tmp_path, TRAINING).newest() is None
    assert CohortCheckpoint(tmp_path / "missing", TRAINING).newest() is None


def test_another_training_finds_nothing_in_it(checkpoint):
    assert CohortCheckpoint(checkpoint.directory, OTHER).newest() is None


def test_a_full_disk_leaves_the_checkpoints_before(checkpoint, monkeypatch):
    def full(_path, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shared.distillation.checkpoint.write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(state(4), tensors(4))
    assert checkpoint.newest()[0].epoch == 3
