"""What names a transfer set and its rows."""

import hashlib

import numpy as np
import pytest
from pydantic import ValidationError

from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.training import TransferSetSpec
from shared.transfer_set.format import Shard, image_digests, preprocessing_digest, row_key
from tests.unit.shared.transfer_set.conftest import make_inputs

SHIFT = np.array([1, -2], np.int8)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_digest": "0" * 64},
        {"rows": 99},
        {"teacher_digest": "0" * 64},
        {"preprocessing_digest": "0" * 64},
        {"classes": tuple("1234567890")},
        {"spec": TransferSetSpec(views=3, jitter_px=2, seed=2)},
        {"spec": TransferSetSpec(views=3, jitter_px=1, seed=1)},
        {"spec": TransferSetSpec(views=2, jitter_px=2, seed=1)},
        {"tempers": False},
        {"tempers": False, "temperature": 4.0},
    ],
)
def test_every_input_changes_the_digest(change: dict[str, object]) -> None:
    assert make_inputs(**change).digest != make_inputs().digest


def test_the_same_inputs_have_the_same_digest() -> None:
    assert make_inputs().digest == make_inputs().digest


def test_a_teacher_that_tempers_is_asked_at_1() -> None:
    with pytest.raises(ValidationError, match="T = 1"):
        make_inputs(tempers=True, temperature=4.0)


def test_preprocessing_is_told_apart_by_all_it_does() -> None:
    size = ImageInput(height=28, width=28, channels=1)
    one = Preprocessing(input=size, mean=(0.0,), std=(1.0,))
    others = [
        one.model_copy(update={"mean": (0.1,)}),
        one.model_copy(update={"std": (0.9,)}),
        one.model_copy(update={"input": ImageInput(height=28, width=29, channels=1)}),
    ]
    assert len({preprocessing_digest(p) for p in (one, *others)}) == 4


def test_image_digests_are_those_of_shape_and_pixels(digits: np.ndarray) -> None:
    expected = hashlib.sha256(b"[28,28,1]\n" + digits[5].tobytes()).digest()[:16]
    assert image_digests(digits)[5].tobytes() == expected
    assert image_digests(digits[:0]).shape == (0, 16)


def test_images_with_the_same_pixels_in_another_shape_have_another_digest() -> None:
    flat = np.zeros((1, 4, 1, 1), np.uint8)
    assert image_digests(flat).tobytes() != image_digests(flat.reshape(1, 2, 2, 1)).tobytes()


def test_a_row_is_known_by_content_wherever_it_is_stored(digits: np.ndarray) -> None:
    digest = image_digests(digits)[0]
    elsewhere = make_inputs(
        dataset_digest="0" * 64, rows=7, spec=TransferSetSpec(views=9, jitter_px=5, seed=9)
    )
    assert row_key(digest, SHIFT, make_inputs()) == row_key(digest, SHIFT, elsewhere)


def test_what_changes_the_answer_changes_the_key(digits: np.ndarray) -> None:
    one, two = image_digests(digits[:2])
    inputs = make_inputs()
    keys = {
        row_key(one, SHIFT, inputs),
        row_key(two, SHIFT, inputs),
        row_key(one, -SHIFT, inputs),
        row_key(one, SHIFT, make_inputs(teacher_digest="0" * 64)),
        row_key(one, SHIFT, make_inputs(preprocessing_digest="0" * 64)),
        row_key(one, SHIFT, make_inputs(tempers=False, temperature=4.0)),
    }
    assert len(keys) == 6


@pytest.mark.parametrize("file", ["../x.safetensors", "shard-00000.pt", "/shard-00000.safetensors"])
def test_a_manifest_cannot_point_outside_its_folder(file: str) -> None:
    with pytest.raises(ValidationError):
        Shard(file=file, rows=1, sha256="0" * 64)
