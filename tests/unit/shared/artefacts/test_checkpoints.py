"""Checkpoints on disk: what is read is whole, what is not gives way to the one before."""

import errno
import fcntl
import json
import logging
import os
from pathlib import Path

import pytest

from shared.artefacts import checkpoints
from shared.artefacts.checkpoints import CheckpointFolder, last_checkpoint, words_on_last_checkpoint
from shared.artefacts.files import digest_of, sha256_bytes


def state(epoch: int) -> dict:
    return {"epoch": epoch, "step": 7, "loss": 0.1 * epoch, "training": "t"}


def weights(epoch: int) -> bytes:
    return bytes([epoch]) * 100


def saved(directory: Path, *epochs: int) -> CheckpointFolder:
    folder = CheckpointFolder(directory)
    for epoch in epochs:
        folder.save(state(epoch), weights(epoch))
    return folder


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def manifest(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.json"


def weights_of(directory: Path, number: int) -> Path:
    (found,) = directory.glob(f"{number:08d}-*.safetensors")
    return found


def test_what_was_saved_is_read_with_its_name_and_the_newest_two_are_kept(tmp_path):
    found = saved(tmp_path / "of-a-net", 1, 2, 3, 4).newest()
    assert found.name == "of-a-net/00000004"
    assert (found.state, found.weights.read_bytes()) == (state(4), weights(4))
    assert names(tmp_path / "of-a-net") == [
        f"00000003-{sha256_bytes(weights(3))[:16]}.safetensors",
        "00000003.json",
        f"00000004-{sha256_bytes(weights(4))[:16]}.safetensors",
        "00000004.json",
    ]


def test_the_first_is_number_1_and_a_folder_is_made_with_its_parents(tmp_path):
    assert saved(tmp_path / "a" / "b", 5).newest().name == "b/00000001"


def test_no_folder_and_an_empty_one_have_none(tmp_path):
    assert CheckpointFolder(tmp_path).newest() is None
    assert CheckpointFolder(tmp_path / "missing").newest() is None


def test_what_is_not_accepted_gives_way_to_the_one_before(tmp_path):
    folder = saved(tmp_path, 1, 2)
    assert folder.newest(lambda state: state["epoch"] < 2).state == state(1)
    assert folder.newest(lambda state: False) is None


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


BREAKAGES = {
    "weights gone": lambda d: weights_of(d, 2).unlink(),
    "weights of another": lambda d: weights_of(d, 2).write_bytes(weights(9)),
    "killed before the manifest": lambda d: manifest(d, 2).unlink(),
    "another's manifest": lambda d: manifest(d, 2).write_bytes(manifest(d, 1).read_bytes()),
    "no object": lambda d: manifest(d, 2).write_text("[]"),
    "no text": lambda d: manifest(d, 2).write_bytes(b"\xff\xfe"),
    "a folder": lambda d: (manifest(d, 2).unlink(), manifest(d, 2).mkdir()),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_one_gives_way_to_the_one_before(breakage, tmp_path):
    folder = saved(tmp_path, 1, 2)
    BREAKAGES[breakage](tmp_path)
    assert folder.newest().state == state(1)


@pytest.mark.parametrize("of", [manifest, weights_of])
def test_whichever_bit_flips_the_one_before_is_read_or_the_very_same(of, tmp_path):
    """A flip that JSON does not mind may stay unseen; one that tells a lie may not."""
    folder = saved(tmp_path, 1, 2)
    path = of(tmp_path, 2)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 3):
        flip(path, bit)
        assert folder.newest().state in (state(1), state(2)), bit
        if of is weights_of:
            assert folder.newest().state == state(1), bit
        path.write_bytes(whole)
    assert folder.newest().state == state(2)


@pytest.mark.parametrize("of", [manifest, weights_of])
def test_wherever_a_file_is_cut_the_one_before_is_read(of, tmp_path):
    folder = saved(tmp_path, 1, 2)
    path = of(tmp_path, 2)
    for size in reversed(range(path.stat().st_size)):
        cut(path, size)
        assert folder.newest().state == state(1), size


def test_a_refused_one_is_told_with_its_file(tmp_path, caplog):
    folder = saved(tmp_path, 1, 2)
    flip(weights_of(tmp_path, 2), 0)
    with caplog.at_level(logging.WARNING):
        folder.newest()
    (told,) = caplog.records
    assert told.checkpoint == str(manifest(tmp_path, 2))
    assert "digest" in told.reason


def test_one_whose_manifest_cannot_be_read_is_told_as_well(tmp_path, caplog):
    folder = saved(tmp_path, 1, 2)
    manifest(tmp_path, 2).write_text("half a manif")
    with caplog.at_level(logging.WARNING):
        folder.newest()
    (told,) = caplog.records
    assert told.checkpoint == str(manifest(tmp_path, 2))
    assert "JSON" in told.reason


def test_two_who_remove_the_same_old_one_do_not_disturb_each_other(tmp_path, monkeypatch):
    folder, unlink = saved(tmp_path, 1, 2), Path.unlink

    def unlink_twice(path: Path, **options: bool) -> None:
        unlink(path)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink_twice)
    folder._prune([2])
    assert folder.newest().state == state(2)


def test_a_whole_one_is_told_of_nowhere(tmp_path, caplog):
    saved(tmp_path, 1, 2).newest()
    assert not caplog.records


def test_the_one_after_a_broken_one_is_the_newest_again(tmp_path):
    folder = saved(tmp_path, 1, 2)
    flip(weights_of(tmp_path, 2), 5)
    folder.save(state(3), weights(3))
    assert folder.newest().state == state(3)


def test_a_number_that_is_not_finite_is_not_saved(tmp_path):
    folder = saved(tmp_path, 1)
    with pytest.raises(ValueError, match="JSON"):
        folder.save({"loss": float("nan")}, weights(2))
    assert folder.newest().state == state(1)
    assert len(names(tmp_path)) == 2


def test_files_of_another_name_are_left_alone(tmp_path):
    for name in ("notes.json", "00000001.json.bak", "0.json", "000000001.json"):
        (tmp_path / name).write_text("{}")
    saved(tmp_path, 1, 2, 3, 4)
    assert len(names(tmp_path)) == 8


# --- who is killed, and who writes beside ------------------------------------------------------------------


def test_what_a_killed_writer_left_is_cleared_away_by_the_next(tmp_path):
    folder = saved(tmp_path, 1)
    stale = tmp_path / f".00000002.json.{'0' * 16}.tmp"
    stale.write_bytes(b"half a manif")
    orphan = tmp_path / f"00000002-{'f' * 16}.safetensors"
    orphan.write_bytes(b"killed before its manifest")
    folder.save(state(2), weights(2))
    assert not stale.exists()
    folder.save(state(3), weights(3))
    folder.save(state(4), weights(4))
    assert not orphan.exists()


def test_the_temporary_of_a_living_writer_stays(tmp_path):
    tmp_path.mkdir(exist_ok=True)
    alive = tmp_path / f".00000002.json.{'0' * 16}.tmp"
    with alive.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        saved(tmp_path, 1)
        assert alive.exists()


def test_two_who_write_the_same_number_do_not_spoil_each_other(tmp_path, monkeypatch):
    """One was paused between its two files, and wakes when the other has written both."""
    write, paused = checkpoints.write_atomic, []

    def write_and_pause(path: Path, data: bytes) -> None:
        if path.suffix == ".json" and not paused:
            paused.append(path)
            CheckpointFolder(tmp_path).save(state(20), weights(20))
        write(path, data)

    folder = saved(tmp_path, 1)
    monkeypatch.setattr(checkpoints, "write_atomic", write_and_pause)
    folder.save(state(2), weights(2))
    assert paused
    found = folder.newest()
    assert (found.state, found.weights.read_bytes()) == (state(2), weights(2))


def test_a_writer_who_lags_behind_removes_nothing_that_is_newer(tmp_path, monkeypatch):
    folder = saved(tmp_path, 1)
    write = checkpoints.write_atomic

    def write_slowly(path: Path, data: bytes) -> None:
        if path.name == "00000002.json" and data.find(b'"epoch":2,') >= 0:
            saved(tmp_path, 3, 4, 5)
        write(path, data)

    monkeypatch.setattr(checkpoints, "write_atomic", write_slowly)
    folder.save(state(2), weights(2))
    assert folder.newest().state == state(5)


# --- no room -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full_at", [".safetensors", ".json"])
def test_a_full_disk_leaves_those_before_and_nothing_of_this_one(full_at, tmp_path, monkeypatch):
    write = checkpoints.write_atomic

    def write_until_full(path: Path, data: bytes) -> None:
        if path.suffix == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    folder = saved(tmp_path, 1, 2)
    before = names(tmp_path)
    monkeypatch.setattr(checkpoints, "write_atomic", write_until_full)
    with pytest.raises(OSError, match="No space left"):
        folder.save(state(3), weights(3))
    assert names(tmp_path) == before
    assert folder.newest().state == state(2)


def test_weights_that_another_has_named_meanwhile_stay_where_the_disk_is_full(tmp_path, monkeypatch):
    write = checkpoints.write_atomic

    def beside(path: Path, data: bytes) -> None:
        write(path, data)
        if path.suffix == ".json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "write_atomic", beside)
    with pytest.raises(OSError, match="No space left"):
        CheckpointFolder(tmp_path).save(state(1), weights(1))
    assert CheckpointFolder(tmp_path).newest().state == state(1)


# --- for words ---------------------------------------------------------------------------------------------


def test_of_several_trainings_the_checkpoint_written_last_is_told(tmp_path):
    saved(tmp_path / "first", 1)
    saved(tmp_path / "second" / "round", 2)
    for path, at in (("first", 1_000), ("second/round", 2_000)):
        os.utime(manifest(tmp_path / path, 1), (at, at))
    assert last_checkpoint(tmp_path).name == "round/00000001"
    os.utime(manifest(tmp_path / "first", 1), (3_000, 3_000))
    assert words_on_last_checkpoint(tmp_path) == (
        "the last good checkpoint is first/00000001, after 1 epochs and 7 steps"
    )


def test_where_the_last_training_has_no_whole_one_an_earlier_training_has(tmp_path):
    saved(tmp_path / "first", 1)
    saved(tmp_path / "second", 2)
    os.utime(manifest(tmp_path / "first", 1), (1_000, 1_000))
    flip(weights_of(tmp_path / "second", 1), 0)
    assert last_checkpoint(tmp_path).name == "first/00000001"


def test_what_a_training_removes_while_it_is_looked_for_is_no_trouble(tmp_path, monkeypatch):
    walk = os.walk

    def removed_meanwhile(folder: Path):
        for directory, folders, files in walk(folder):
            for number in (1, 2):
                (Path(directory) / f"{number:08d}.json").unlink(missing_ok=True)
            yield directory, folders, files

    saved(tmp_path / "of-a-net", 1, 2)
    monkeypatch.setattr(os, "walk", removed_meanwhile)
    assert last_checkpoint(tmp_path) is None
    saved(tmp_path / "of-a-net", 3, 4).save(state(5), weights(5))
    assert last_checkpoint(tmp_path).state == state(5)


def test_without_comparing_weights_are_not_read_but_must_be_there(tmp_path):
    saved(tmp_path / "of-a-net", 1, 2)
    flip(weights_of(tmp_path / "of-a-net", 2), 0)
    assert last_checkpoint(tmp_path).name == "of-a-net/00000001"
    assert last_checkpoint(tmp_path, compare=False).name == "of-a-net/00000002"
    weights_of(tmp_path / "of-a-net", 2).unlink()
    assert last_checkpoint(tmp_path, compare=False).name == "of-a-net/00000001"


def test_without_comparing_a_manifest_is_compared_all_the_same(tmp_path):
    saved(tmp_path / "of-a-net", 1, 2)
    path = manifest(tmp_path / "of-a-net", 2)
    path.write_text(path.read_text().replace('"epoch":2', '"epoch":3'))
    assert last_checkpoint(tmp_path, compare=False).name == "of-a-net/00000001"


@pytest.mark.parametrize("missing", [True, False])
def test_where_there_is_none_that_is_said(missing, tmp_path):
    folder = tmp_path / "missing" if missing else tmp_path
    assert last_checkpoint(folder) is None
    assert words_on_last_checkpoint(folder) == "no checkpoint was made"


def test_the_manifest_is_json_that_a_person_can_read(tmp_path):
    saved(tmp_path, 1)
    found = json.loads(manifest(tmp_path, 1).read_text())
    assert found["state"] == state(1)
    assert found["weights"] == sha256_bytes(weights(1))
    assert found["digest"] == digest_of({"state": state(1), "weights": found["weights"]})
