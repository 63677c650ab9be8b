"""Reading a transfer set."""

import re
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.files import sha256_bytes, sha256_file
from shared.artefacts.tensors import read_tensors, tensors_to_bytes
from shared.contracts.training import TransferSetSpec
from shared.errors import Corrupt, InvalidRequest
from shared.transfer_set.format import image_digests
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.views import ViewParameters, apply_views, view_parameters
from shared.transfer_set.writer import TransferSetWriter
from tests.unit.shared.transfer_set.conftest import LinearTeacher, make_inputs, make_writer, write_all


def test_logits_belong_to_the_view_that_the_shifts_make(
    writer: TransferSetWriter, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    """What a student sees (image, shift, flip) and what it learns (logits) must be of the same pixels."""
    write_all(writer, teacher)
    transfer_set = TransferSet.open(writer.directory)
    assert transfer_set.logits.shape == (3, 100, 10)
    for view in range(3):
        parameters = transfer_set.parameters[view]
        drawn = view_parameters(writer.inputs.spec, 100, view, (28, 28))
        np.testing.assert_array_equal(parameters.keys(), drawn.keys())
        logits = teacher(apply_views(digits, parameters))
        expected = logits - logits.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(transfer_set.logits[view], expected, rtol=2e-3, atol=1e-2)
    np.testing.assert_array_equal(transfer_set.image_digests, image_digests(digits))


def test_a_single_shard_is_not_copied(tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher) -> None:
    writer = make_writer(tmp_path, make_inputs(), digits)
    write_all(writer, teacher)
    assert not TransferSet.open(tmp_path).logits.flags.owndata


def test_logits_of_a_teacher_that_tempers_serve_any_temperature(
    writer: TransferSetWriter, teacher: LinearTeacher
) -> None:
    write_all(writer, teacher)
    transfer_set = TransferSet.open(writer.directory)
    assert transfer_set.logits_at(20.0) is transfer_set.logits_at(1.0) is transfer_set.logits


def test_logits_of_an_arithmetic_ensemble_serve_their_own_temperature_only(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    writer = make_writer(tmp_path, make_inputs(tempers=False, temperature=4.0), digits)
    write_all(writer, teacher)
    transfer_set = TransferSet.open(tmp_path)
    assert transfer_set.logits_at(4.0) is transfer_set.logits
    with pytest.raises(InvalidRequest, match="T = 4 only, not 1"):
        transfer_set.logits_at(1.0)


def test_a_set_that_is_not_there_is_no_corrupt_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TransferSet.open(tmp_path)


@pytest.mark.parametrize("file", ["shard-00000.safetensors", "shard-00004.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damage_is_found_and_named(
    writer: TransferSetWriter, teacher: LinearTeacher, file: str, damage: str
) -> None:
    write_all(writer, teacher)
    path = writer.directory / file
    data = bytearray(path.read_bytes())
    if damage == "flip":
        # In the manifest: a digit of the temperature's line or of a digest.
        where = data.index(b'"dataset_digest": "') + 20 if file == "manifest.json" else -1
        data[where] = ord("0") if data[where] != ord("0") else ord("1")
    else:
        del data[{"cut": -3, "empty": 0}[damage] :]
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=re.escape(file)):
        TransferSet.open(writer.directory)


def test_a_lost_shard_is_found_and_named(writer: TransferSetWriter, teacher: LinearTeacher) -> None:
    write_all(writer, teacher)
    (writer.directory / "shard-00003.safetensors").unlink()
    with pytest.raises(Corrupt, match="shard-00003"):
        TransferSet.open(writer.directory)


def test_a_shard_with_other_columns_is_corrupt_whatever_its_digest(
    writer: TransferSetWriter, teacher: LinearTeacher
) -> None:
    """The manifest speaks for its bytes; that it is a shard of this set is another question."""
    write_all(writer, teacher)
    path = writer.directory / "shard-00001.safetensors"
    columns, metadata = read_tensors(path)
    data = tensors_to_bytes({**columns, "logits": columns["logits"][:, :9]}, metadata)
    manifest = (writer.directory / "manifest.json").read_text()
    before = sha256_file(path)
    path.write_bytes(data)
    (writer.directory / "manifest.json").write_text(manifest.replace(before, sha256_bytes(data)))
    with pytest.raises(Corrupt, match="shard-00001"):
        TransferSet.open(writer.directory)


def test_parameters_that_are_not_stored_take_no_memory(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    write_all(make_writer(tmp_path, make_inputs(spec=TransferSetSpec(views=2)), digits), teacher)
    parameters = TransferSet.open(tmp_path).parameters
    as_is = ViewParameters.as_is((2, 100), (28, 28))
    np.testing.assert_array_equal(parameters.keys(), as_is.keys())
    assert all(array.strides[:2] == (0, 0) for array in parameters.columns().values())


@pytest.mark.parametrize("shard_rows", [64, 1000])
def test_the_largest_logits_are_read_as_they_are_stored(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher, shard_rows: int
) -> None:
    inputs = make_inputs(spec=TransferSetSpec(views=3, top_k=4))
    writer = make_writer(tmp_path, inputs, digits, shard_rows=shard_rows)
    write_all(writer, teacher)
    stored = TransferSet.open(tmp_path)
    assert stored.sparse is not None
    assert stored.sparse.logits.shape == (3, 100, 4)
    np.testing.assert_array_equal(stored.logits, stored.sparse.dense())
    np.testing.assert_array_equal(stored.sparse[1].dense(), stored.logits[1])
    logits = teacher(digits)
    np.testing.assert_array_equal(stored.logits[0].argmax(axis=1), logits.argmax(axis=1))
