"""The store of teachers."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from shared.artefacts.teachers import TeacherStore
from shared.contracts.architectures import Mlp
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.specialists import Combination, SpecialistPart
from shared.contracts.teachers import Nets, TeacherDescription
from shared.errors import Corrupt, TeacherNotFound

FIELDS: dict[str, Any] = {
    "name": "digits",
    "tensors": {
        "layers.0.weight": np.ones((1, 3, 4), np.float32),
        "layers.0.bias": np.zeros((1, 3), np.float32),
    },
    "model": Nets(architecture=Mlp(hidden_units=(3,))),
    "classes": ("a", "b", "c"),
    "preprocessing": Preprocessing(input=ImageInput(height=2, width=2, channels=1), mean=(0.5,), std=(0.25,)),
    "test_accuracy": 0.5,
    "job_id": "job-1",
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
}


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path)


def publish(store: TeacherStore, **changes: object) -> TeacherDescription:
    return store.publish_nets(**{**FIELDS, **changes})


def nets(**changes: object) -> Nets:
    return FIELDS["model"].model_copy(update=changes)


def test_a_published_teacher_answers_once_it_is_made_current(store: TeacherStore) -> None:
    description = publish(store)
    assert store.names() == []
    with pytest.raises(TeacherNotFound):
        store.current("digits")
    store.make_current("digits", description.digest)
    assert store.names() == ["digits"]
    assert store.current("digits") == description


def test_weights_come_back_as_they_were_published(store: TeacherStore) -> None:
    tensors = store.load(publish(store))
    assert set(tensors) == set(FIELDS["tensors"])
    for name, expected in FIELDS["tensors"].items():
        np.testing.assert_array_equal(tensors[name], expected, strict=True)


def test_publishing_the_same_teacher_again_returns_the_first(store: TeacherStore) -> None:
    first = publish(store)
    assert publish(store, job_id="job-2", test_accuracy=0.9) == first


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": {**FIELDS["tensors"], "layers.0.bias": np.ones((1, 3), np.float32)}},
        {"model": nets(architecture=Mlp(hidden_units=(4,)))},
        {"model": nets(members=2)},
        {"model": nets(merge="arithmetic")},
        {"precision": "bfloat16"},
        {"classes": ("b", "a", "c")},
        {"preprocessing": FIELDS["preprocessing"].model_copy(update={"mean": (0.4,)})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_answer_changes_the_digest(store: TeacherStore, change: dict[str, object]) -> None:
    assert publish(store, **change).digest != publish(store).digest


def test_a_name_can_move_to_a_new_teacher_and_the_old_one_stays(store: TeacherStore) -> None:
    old, new = publish(store), publish(store, model=nets(merge="arithmetic"))
    store.make_current("digits", old.digest)
    store.make_current("digits", new.digest)
    assert store.current("digits") == new
    assert store.file(old, "model.safetensors").is_file()


def test_only_what_was_published_can_be_made_current(store: TeacherStore) -> None:
    with pytest.raises(TeacherNotFound):
        store.make_current("digits", "0" * 64)


@pytest.mark.parametrize("name", ["nobody", "../digits", "", "a/b"])
def test_unknown_names_are_not_found(store: TeacherStore, name: str) -> None:
    with pytest.raises(TeacherNotFound):
        store.current(name)


def test_a_teacher_cannot_be_published_outside_the_store(store: TeacherStore, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        publish(store, name="../digits")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_weight_is_corrupt(store: TeacherStore) -> None:
    description = publish(store)
    path = store.file(description, "model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"model\.safetensors"):
        store.load(description)


def test_an_edited_description_is_corrupt(store: TeacherStore) -> None:
    description = publish(store)
    store.make_current("digits", description.digest)
    path = store.file(description, "model.safetensors").with_name("teacher.json")
    path.write_text(path.read_text().replace('"geometric"', '"arithmetic"'))
    with pytest.raises(Corrupt):
        store.load(store.current("digits"))
    path.write_text("{")
    with pytest.raises(Corrupt, match=r"teacher\.json"):
        store.current("digits")


COMBINATION = Combination(top_n=1, specialists=(SpecialistPart(classes=("a", "c")),))


def test_a_certain_teacher_is_described_whether_or_not_it_answers(store: TeacherStore) -> None:
    first = publish(store)
    second = publish(store, classes=("x", "y", "z"))
    store.make_current("digits", second.digest)
    assert store.described("digits", first.digest) == first
    with pytest.raises(TeacherNotFound):
        store.described("digits", "0" * 64)
    with pytest.raises(TeacherNotFound):
        store.described("../digits", first.digest)


def test_specialists_are_part_of_what_a_teacher_is(store: TeacherStore) -> None:
    plain = publish(store)
    joined = publish(store, model=nets(specialists=COMBINATION))
    asked_more = publish(store, model=nets(specialists=COMBINATION.model_copy(update={"top_n": 2})))
    assert len({plain.digest, joined.digest, asked_more.digest}) == 3
    assert store.described("digits", joined.digest).nets.specialists == COMBINATION


def test_specialists_of_classes_that_there_are_not_are_refused(store: TeacherStore) -> None:
    other = Combination(top_n=1, specialists=(SpecialistPart(classes=("a", "q")),))
    with pytest.raises(ValidationError, match="q"):
        publish(store, model=nets(specialists=other))
    with pytest.raises(ValidationError, match="one net"):
        publish(store, model=nets(specialists=COMBINATION, members=2))
