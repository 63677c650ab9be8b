"""No teacher is asked twice about the same pixels."""

import logging
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.files import digest_of
from shared.contracts.training import TransferSetSpec
from shared.transfer_set.format import TransferSetInputs
from shared.transfer_set.known import KnownAnswers
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.store import TransferSetStore
from shared.transfer_set.writer import TransferSetWriter
from tests.unit.shared.transfer_set.conftest import LinearTeacher, make_inputs, make_writer, write_all

LABELS = np.arange(100) % 10


@pytest.fixture
def store(writer: TransferSetWriter, teacher: LinearTeacher) -> Path:
    """A store with one set: 3 views of 100 images."""
    write_all(writer, teacher)
    teacher.rows = 0
    return writer.directory.parent


def known_in(store: Path, inputs: TransferSetInputs) -> KnownAnswers:
    return TransferSetStore(str(store), store / "cache").known(inputs)


def build(store: Path, inputs: TransferSetInputs, images: np.ndarray, teacher: LinearTeacher) -> TransferSet:
    known = known_in(store, inputs)
    writer = make_writer(store / inputs.digest, inputs, images, labels=LABELS, shard_rows=50, known=known)
    write_all(writer, teacher)
    return TransferSet.open(writer.directory)


def spec(**changes: object) -> TransferSetSpec:
    return make_inputs().spec.model_copy(update=changes)


def test_a_part_of_a_known_set_asks_nothing_and_keeps_every_bit(
    store: Path, inputs: TransferSetInputs, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    whole = TransferSet.open(store / inputs.digest)
    part = build(store, make_inputs(rows=27, spec=spec(omit=("3",), share=0.3)), digits, teacher)
    assert teacher.rows == 0
    assert not (part.rows % 10 == 3).any()
    for name in ("logits", "shifts", "flips"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:, part.rows])


def test_fewer_labels_ask_nothing(store: Path, digits: np.ndarray, teacher: LinearTeacher) -> None:
    part = build(store, make_inputs(spec=spec(label_share=0.1)), digits, teacher)
    assert teacher.rows == 0
    assert part.labelled.sum() == 10


def unseen(views: TransferSet, before: int) -> int:
    """Return for how many images the last view differs from those before."""
    seen = np.concatenate([views.shifts, views.flips[..., np.newaxis].astype(np.int8)], axis=2)
    return sum(not (seen[:before, row] == seen[-1, row]).all(axis=-1).any() for row in range(100))


def test_a_view_more_asks_for_what_is_new_in_that_view(
    store: Path, inputs: TransferSetInputs, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    more = build(store, make_inputs(spec=spec(views=4)), digits, teacher)
    assert teacher.rows == unseen(more, 3) > 80
    np.testing.assert_array_equal(more.logits[:3], TransferSet.open(store / inputs.digest).logits)
    anew = make_writer(store / "anew", make_inputs(spec=spec(views=4)), digits)
    write_all(anew, teacher)
    # A linear map of another batch size may round its last bit otherwise.
    np.testing.assert_allclose(more.logits, TransferSet.open(store / "anew").logits, rtol=2e-3, atol=1e-2)


def test_answers_are_known_by_pixels_and_not_by_index_or_dataset(
    store: Path, inputs: TransferSetInputs, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    elsewhere = make_inputs(dataset_digest=digest_of("backwards"), spec=TransferSetSpec())
    backwards = build(store, elsewhere, digits[::-1], teacher)
    assert teacher.rows == 0
    whole = TransferSet.open(store / inputs.digest)
    np.testing.assert_array_equal(backwards.logits[0], whole.logits[0, ::-1])


@pytest.mark.parametrize(
    "change",
    [
        {"teacher_digest": digest_of("another")},
        {"preprocessing_digest": digest_of("another")},
        {"tempers": False, "temperature": 4.0},
    ],
)
def test_another_teacher_preprocessing_or_temperature_is_asked_for_all(
    store: Path, digits: np.ndarray, teacher: LinearTeacher, change: dict[str, object]
) -> None:
    build(store, make_inputs(**change), digits, teacher)
    assert teacher.rows == 300


def test_several_sets_are_searched_until_all_is_found(
    store: Path, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    both = spec(seed=5, views=2)
    build(store, make_inputs(spec=both), digits, teacher)
    asked = teacher.rows
    assert 80 < asked <= 100  # the first view, as it is, was known
    build(store, make_inputs(spec=both.model_copy(update={"label_share": 0.5})), digits, teacher)
    assert teacher.rows == asked


def test_a_damaged_set_is_passed_over_and_said_so(
    store: Path,
    inputs: TransferSetInputs,
    digits: np.ndarray,
    teacher: LinearTeacher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (store / inputs.digest / "shard-00001.safetensors").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        build(store, make_inputs(spec=spec(views=1)), digits, teacher)
    assert teacher.rows == 100
    assert "passed over" in caplog.text


def test_sets_that_are_not_finished_or_of_another_format_are_not_searched(
    store: Path, inputs: TransferSetInputs, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    (store / inputs.digest / "manifest.json").write_text('{"inputs": {"format": 1}}')
    (store / "empty").mkdir()
    build(store, make_inputs(spec=spec(views=1)), digits, teacher)
    assert teacher.rows == 100


def test_what_is_to_be_asked_is_known_before(store: Path, digits: np.ndarray) -> None:
    inputs = make_inputs(spec=spec(views=4))
    writer = make_writer(store / "x", inputs, digits, shard_rows=250, known=known_in(store, inputs))
    none, some = (writer.rows_to_ask(number) for number in range(writer.shards))
    assert none == 0
    batch = writer.batch(1)
    assert len(batch.images) == len(batch.shifts) == some > 80
    np.testing.assert_array_equal(batch.views, 3)
