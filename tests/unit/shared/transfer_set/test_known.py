"""No teacher is asked twice about the same pixels."""

import logging
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.files import digest_of
from shared.contracts.training import TransferSetSpec
from shared.transfer_set import known
from shared.transfer_set.format import TransferSetInputs, image_digests, row_keys
from shared.transfer_set.known import KnownAnswers
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.store import TransferSetStore
from shared.transfer_set.views import ViewParameters
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
    found = known_in(store, inputs)
    writer = make_writer(store / inputs.digest, inputs, images, labels=LABELS, shard_rows=50, known=found)
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
    np.testing.assert_array_equal(part.logits, whole.logits[:, part.rows])
    np.testing.assert_array_equal(part.parameters.keys(), whole.parameters[:, part.rows].keys())


def test_fewer_labels_ask_nothing(store: Path, digits: np.ndarray, teacher: LinearTeacher) -> None:
    part = build(store, make_inputs(spec=spec(label_share=0.1)), digits, teacher)
    assert teacher.rows == 0
    assert part.labelled.sum() == 10


def unseen(views: TransferSet, before: int) -> int:
    """Return for how many images the last view differs from those before."""
    seen = views.parameters.keys().reshape(*views.logits.shape[:2], -1)
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


def test_a_damaged_shard_is_passed_over_and_said_so(
    store: Path,
    inputs: TransferSetInputs,
    digits: np.ndarray,
    teacher: LinearTeacher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (store / inputs.digest / "shard-00001.safetensors").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        build(store, make_inputs(spec=spec(views=1)), digits, teacher)
    assert teacher.rows == 36  # of view 0 the first 64 rows are in the other shard
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
    assert len(batch.images) == len(batch.parameters) == some > 80
    np.testing.assert_array_equal(batch.views, 3)


def test_all_logits_serve_a_set_that_keeps_the_largest(
    store: Path, inputs: TransferSetInputs, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    few = build(store, make_inputs(spec=spec(top_k=3)), digits, teacher)
    assert teacher.rows == 0
    whole = TransferSet.open(store / inputs.digest).logits
    assert few.sparse is not None
    np.testing.assert_array_equal(few.sparse.logits, np.sort(whole, axis=-1)[..., :-4:-1])


def test_the_largest_logits_serve_a_set_that_keeps_as_many(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    first = build(tmp_path, make_inputs(spec=spec(top_k=3)), digits, teacher)
    teacher.rows = 0
    again = build(tmp_path, make_inputs(spec=spec(top_k=3, label_share=0.5)), digits, teacher)
    assert teacher.rows == 0
    np.testing.assert_array_equal(again.logits, first.logits)
    assert again.manifest.top_k_error == first.manifest.top_k_error


@pytest.mark.parametrize("top_k", [None, 2, 4])
def test_the_largest_logits_do_not_serve_a_set_that_keeps_others(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher, top_k: int | None
) -> None:
    build(tmp_path, make_inputs(spec=spec(top_k=3)), digits, teacher)
    teacher.rows = 0
    build(tmp_path, make_inputs(spec=spec(top_k=top_k)), digits, teacher)
    assert teacher.rows == 300


def test_keys_that_come_down_to_the_same_hash_are_not_taken_for_each_other(
    store: Path,
    digits: np.ndarray,
    teacher: LinearTeacher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known, "hash_keys", lambda keys: np.zeros(len(keys), np.uint64))
    inputs = make_inputs(spec=spec(views=1))
    found, columns = known_in(store, inputs).find(
        row_keys(image_digests(digits), ViewParameters.as_is((100,), (28, 28)))
    )
    assert found.tolist() == [True] + 99 * [False]  # every hash finds the first row
    assert not columns["logits"][1:].any()


def test_nothing_is_left_on_disk_of_the_search(
    store: Path, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    build(store, make_inputs(spec=spec(views=1)), digits, teacher)
    assert list((store / "cache").iterdir()) == []
