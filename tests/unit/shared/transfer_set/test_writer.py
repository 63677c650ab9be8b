"""Writing a transfer set, and going on after a failure at any point."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.tensors import read_tensors
from shared.contracts.images import ImageInput
from shared.errors import StoreFull, TeacherAnswerInvalid
from shared.transfer_set.format import default_shard_rows
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.views import apply_views
from shared.transfer_set.writer import TransferSetWriter
from tests.unit.shared.transfer_set.conftest import LinearTeacher, make_inputs, make_writer, write_all


def again(writer: TransferSetWriter, digits: np.ndarray) -> TransferSetWriter:
    """Return a writer as the next process would open it."""
    return make_writer(writer.directory, writer.inputs, digits, shard_rows=64)


def test_batches_hold_every_view_of_every_image_once(writer: TransferSetWriter, digits: np.ndarray) -> None:
    batches = [writer.batch(number) for number in range(writer.shards)]
    assert [len(batch.rows) for batch in batches] == [64, 64, 64, 64, 44]
    seen = [(view, row) for batch in batches for view, row in zip(batch.views, batch.rows, strict=True)]
    assert seen == [(view, row) for view in range(3) for row in range(100)]
    for batch in batches:
        np.testing.assert_array_equal(batch.images, apply_views(digits[batch.rows], batch.parameters))
    np.testing.assert_array_equal(batches[0].images, digits[:64])  # view 0 is the image as it is
    assert any(batch.parameters.shift.any() for batch in batches)
    assert any(batch.parameters.flip.any() for batch in batches)


def test_logits_are_stored_with_zero_mean(writer: TransferSetWriter, teacher: LinearTeacher) -> None:
    logits = teacher(writer.batch(0).images)
    writer.write_shard(0, logits)
    stored = read_tensors(writer.directory / "shard-00000.safetensors")[0]["logits"]
    assert stored.dtype == np.float16
    expected = logits - logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(stored, expected, rtol=2**-11, atol=1e-6)


def test_softened_answers_are_stored_on_the_scale_that_a_loss_divides(
    tmp_path: Path, digits: np.ndarray
) -> None:
    """Asked at T = 4, a teacher answers z/4; softmax(stored / 4) must be its soft targets."""
    inputs = make_inputs(tempers=False, temperature=4.0)
    writer = make_writer(tmp_path, inputs, digits)
    softened = np.random.default_rng(0).normal(size=(300, 10)).astype(np.float32)
    writer.write_shard(0, softened)
    stored = read_tensors(tmp_path / "shard-00000.safetensors")[0]["logits"].astype(np.float64)

    def softmax(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)

    np.testing.assert_allclose(softmax(stored / 4.0), softmax(softened), rtol=2e-3)


def test_other_shard_sizes_make_the_same_set(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    sets = []
    for shard_rows in (1_000, 300, 7):
        writer = make_writer(tmp_path / str(shard_rows), make_inputs(), digits, shard_rows=shard_rows)
        write_all(writer, teacher)
        sets.append(TransferSet.open(writer.directory))
    for other in sets[1:]:
        # A linear map of another batch size may round its last bit otherwise.
        np.testing.assert_allclose(other.logits, sets[0].logits, rtol=2e-3, atol=1e-2)
        np.testing.assert_array_equal(other.parameters.keys(), sets[0].parameters.keys())
        np.testing.assert_array_equal(other.image_digests, sets[0].image_digests)


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (np.zeros((64, 9)), r"expected \(64, 10\)"),
        (np.zeros((63, 10)), r"expected \(64, 10\)"),
        (np.full((64, 10), np.nan), "not finite"),
        (np.full((64, 10), np.inf), "not finite"),
        (np.eye(64, 10) * 1e6, "16-bit"),
        (np.eye(64, 10) * -72_800, "16-bit"),
    ],
)
def test_answers_that_cannot_be_stored_are_refused(
    writer: TransferSetWriter, logits: np.ndarray, words: str
) -> None:
    with pytest.raises(TeacherAnswerInvalid, match=words):
        writer.write_shard(0, logits)
    assert writer.files.names() == []


def test_the_range_of_16_bit_floats_is_used_to_its_end(writer: TransferSetWriter) -> None:
    logits = np.zeros((64, 10))
    logits[:, 0], logits[:, 1] = 65_504, -65_504
    writer.write_shard(0, logits)
    stored = read_tensors(writer.directory / "shard-00000.safetensors")[0]["logits"]
    assert np.isfinite(stored).all()


def test_images_must_be_those_of_the_inputs(tmp_path: Path, digits: np.ndarray) -> None:
    with pytest.raises(ValueError, match="100 images, 99 are selected"):
        make_writer(tmp_path, make_inputs(), digits[:99])


# --- going on ----------------------------------------------------------------------------------------------


def test_a_new_writer_asks_only_for_what_is_missing(
    writer: TransferSetWriter, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    for number in (0, 3):
        writer.write_shard(number, teacher(writer.batch(number).images))
    assert again(writer, digits).missing_shards() == [1, 2, 4]
    write_all(again(writer, digits), teacher)
    assert teacher.rows == 300
    assert (writer.directory / "manifest.json").is_file()


def test_an_unfinished_set_cannot_be_finished(writer: TransferSetWriter, teacher: LinearTeacher) -> None:
    writer.write_shard(0, teacher(writer.batch(0).images))
    with pytest.raises(ValueError, match="4 of 5 shards are missing, first 1"):
        writer.finish()
    assert not (writer.directory / "manifest.json").exists()


def test_finishing_again_changes_nothing(
    writer: TransferSetWriter, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    write_all(writer, teacher)
    before = {path.name: path.read_bytes() for path in writer.directory.iterdir()}
    assert again(writer, digits).finish() == again(writer, digits).finish()
    assert {path.name: path.read_bytes() for path in writer.directory.iterdir()} == before


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_shard_is_made_again(
    writer: TransferSetWriter, digits: np.ndarray, teacher: LinearTeacher, tmp_path: Path, damage: str
) -> None:
    write_all(writer, teacher)
    path = writer.directory / "shard-00002.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "foreign":
        other = make_writer(tmp_path / "other", make_inputs(teacher="x"), digits, shard_rows=64)
        write_all(other, teacher)
        data = bytearray((other.directory / path.name).read_bytes())
    elif damage == "flip":
        data[-5] ^= 1
    else:
        del data[{"cut": -3, "empty": 0}[damage] :]
    path.write_bytes(data)

    resumed = again(writer, digits)
    assert resumed.missing_shards() == [2]
    # The manifest does not speak for a shard that is gone.
    assert not (writer.directory / "manifest.json").exists()
    write_all(resumed, teacher)
    assert TransferSet.open(writer.directory).logits.shape == (3, 100, 10)


def test_the_first_of_two_writers_wins_and_the_shard_never_changes(
    writer: TransferSetWriter, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    """A worker that lost its lease may come late with logits that differ in the last bit."""
    write_all(writer, teacher)
    again(writer, digits).write_shard(1, teacher(writer.batch(1).images) + np.eye(64, 10))
    TransferSet.open(writer.directory)


def test_a_damaged_shard_is_replaced_on_writing(writer: TransferSetWriter, teacher: LinearTeacher) -> None:
    writer.directory.mkdir()
    writer.directory.joinpath("shard-00000.safetensors").write_bytes(b"half")
    writer.write_shard(0, teacher(writer.batch(0).images))
    assert 0 not in writer.missing_shards()


def test_a_failure_while_writing_leaves_no_shard(
    writer: TransferSetWriter, teacher: LinearTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shared.artefacts.files.os.fsync", no_space)
    with pytest.raises(StoreFull, match="shard-00000"):
        writer.write_shard(0, teacher(writer.batch(0).images))
    assert list(writer.directory.iterdir()) == []


KILLED = """
import os, random, signal, sys, threading
from pathlib import Path
from tests.unit.shared.transfer_set.conftest import LinearTeacher, make_inputs, make_writer, write_all
from shared.datasets.builtin import load_builtin

digits = load_builtin("mnist-5k", None)[0]["train"].images[:100]
writer = make_writer(Path(sys.argv[1]), make_inputs(), digits, shard_rows=4)
threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGKILL)).start()
teacher = LinearTeacher()
while True:
    for number in writer.missing_shards():
        writer.write_shard(number, teacher(writer.batch(number).images))
    for path in writer.directory.glob("shard-0000[1-9]*"):
        path.unlink()
"""


@pytest.mark.integration
@pytest.mark.parametrize("after_s", [0.003, 0.01, 0.03, 0.06])
def test_a_kill_at_any_point_leaves_whole_shards_only(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher, after_s: float
) -> None:
    """The child writes 75 shards over and over until it is killed."""
    directory = tmp_path / "set"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(directory), str(after_s)], check=False)
    assert killed.returncode == -signal.SIGKILL
    for path in directory.glob("shard-*"):
        read_tensors(path)  # raises Corrupt where it is not whole
    resumed = make_writer(directory, make_inputs(), digits, shard_rows=4)
    assert {path.suffix for path in directory.glob("*")} <= {".safetensors"}  # temporaries are cleared away
    present = len(list(directory.iterdir()))
    assert len(resumed.missing_shards()) == 75 - present
    write_all(resumed, teacher)
    assert teacher.rows == 4 * (75 - present)


# --- what is stored, for others ----------------------------------------------------------------------------


def test_a_damaged_shard_is_reported(
    writer: TransferSetWriter, digits: np.ndarray, teacher: LinearTeacher, caplog: pytest.LogCaptureFixture
) -> None:
    write_all(writer, teacher)
    (writer.directory / "shard-00002.safetensors").write_bytes(b"half")
    resumed = again(writer, digits)
    with caplog.at_level("WARNING"):
        write_all(resumed, teacher)
    assert resumed.rebuilt == ["shard-00002.safetensors"]
    assert "damaged shard removed" in caplog.text
    assert writer.rebuilt == []


def test_written_shards_are_read_by_their_columns(writer: TransferSetWriter, teacher: LinearTeacher) -> None:
    batch = writer.batch(1)
    writer.write_shard(1, teacher(batch.images))
    columns = writer.columns(1)
    np.testing.assert_array_equal(columns["row"], batch.rows)
    assert not columns["logits"].flags.owndata
    with pytest.raises(FileNotFoundError):
        writer.columns(0)


def test_stored_rows_are_recalled_with_what_the_teacher_saw(
    writer: TransferSetWriter, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    write_all(writer, teacher)
    places = np.array([0, 5, 43])
    recalled = again(writer, digits).recall(4, places)
    np.testing.assert_array_equal(recalled.images, writer.batch(4).images[places])
    np.testing.assert_array_equal(recalled.logits, writer.columns(4)["logits"][places])
    assert recalled.kept.all()
    assert writer.first_row(4) == 256


def test_of_few_stored_logits_it_is_told_which_they_are(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    inputs = make_inputs(spec=make_inputs().spec.model_copy(update={"top_k": 3}))
    writer = make_writer(tmp_path, inputs, digits, shard_rows=64)
    write_all(writer, teacher)
    recalled = writer.recall(0, np.arange(10))
    assert recalled.kept.sum(axis=1).tolist() == 10 * [3]
    logits = teacher(recalled.images)
    logits -= logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(recalled.logits[recalled.kept], logits[recalled.kept], rtol=2e-3, atol=1e-2)


def test_the_error_of_keeping_few_logits_is_summed_over_all_rows(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    inputs = make_inputs(spec=make_inputs().spec.model_copy(update={"top_k": 3}))
    writer = make_writer(tmp_path, inputs, digits, shard_rows=64)
    write_all(writer, teacher)
    errors = np.concatenate([writer.columns(number)["error"] for number in range(5)]).astype(np.float64)
    stated = writer.finish().top_k_error
    assert stated is not None
    assert [one.temperature for one in stated] == [1, 2, 4, 8, 20]
    assert [one.rows for one in stated] == 5 * [300]
    np.testing.assert_allclose([one.mean_nats for one in stated], errors.mean(axis=0))
    np.testing.assert_allclose([one.largest_nats for one in stated], errors.max(axis=0))
    assert stated[0].mean_nats > 0


def test_shards_hold_no_more_logits_than_fit_64_mib_and_large_images_do_not_make_them_small() -> None:
    assert default_shard_rows(make_inputs(input=ImageInput(height=224, width=224, channels=3))) == 8192
    assert default_shard_rows(make_inputs()) == 8192
    assert default_shard_rows(make_inputs(classes=tuple(map(str, range(20_000))))) == 838


def test_images_must_be_of_the_size_of_the_inputs(tmp_path: Path, digits: np.ndarray) -> None:
    with pytest.raises(ValueError, match="28, 28, 1"):
        make_writer(tmp_path, make_inputs(input=ImageInput(height=32, width=28, channels=1)), digits)
