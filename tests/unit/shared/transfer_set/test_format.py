"""What names a transfer set and its rows."""

import hashlib
import struct

import numpy as np
import pytest
from pydantic import ValidationError

from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.training import TransferSetSpec
from shared.transfer_set.format import Shard, image_digests, preprocessing_digest, row_keys
from shared.transfer_set.views import ViewParameters
from tests.unit.shared.transfer_set.conftest import make_inputs


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_digest": "0" * 64},
        {"rows": 99},
        {"input": ImageInput(height=28, width=28, channels=3)},
        {"teacher_digest": "0" * 64},
        {"preprocessing_digest": "0" * 64},
        {"classes": tuple("1234567890")},
        {"spec": TransferSetSpec(views=3, jitter_px=2, flip=True, seed=2)},
        {"spec": TransferSetSpec(views=3, jitter_px=1, flip=True, seed=1)},
        {"spec": TransferSetSpec(views=2, jitter_px=2, flip=True, seed=1)},
        {"spec": TransferSetSpec(views=3, jitter_px=2, seed=1)},
        {"spec": TransferSetSpec(views=3, jitter_px=2, flip=True, seed=1, omit=("3",))},
        {"spec": TransferSetSpec(views=3, jitter_px=2, flip=True, seed=1, label_share=0.5)},
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


def keys_of(images: np.ndarray, **parameters: object) -> list[bytes]:
    views = ViewParameters.as_is((len(images),), (28, 28))
    for name, values in parameters.items():
        getattr(views, name)[:] = values
    return [key.tobytes() for key in row_keys(image_digests(images), views)]


def test_a_row_is_known_by_its_pixels_wherever_it_is_stored(digits: np.ndarray) -> None:
    assert keys_of(digits[3:4], shift=(1, -2), flip=1) == keys_of(digits[:5], shift=(1, -2), flip=1)[3:4]


def test_what_changes_the_pixels_changes_the_key(digits: np.ndarray) -> None:
    changes: list[dict[str, object]] = [
        {},
        {"shift": (1, 0)},
        {"shift": (-1, 0)},
        {"shift": (0, 1)},
        {"flip": 1},
        {"crop": (1, 0, 27, 28)},
        {"tone": (255, 256)},
        {"cutout": (0, 0, 1, 1)},
    ]
    keys = [key for change in changes for key in keys_of(digits[:2], **change)]
    assert len(set(keys)) == 16


def test_a_key_is_image_digest_and_parameters(digits: np.ndarray) -> None:
    (key,) = keys_of(digits[:1], shift=(1, -2), flip=1)
    parameters = struct.pack("<4hB2b2h4h", 0, 0, 28, 28, 1, 1, -2, 256, 256, 0, 0, 0, 0)
    assert key == image_digests(digits[:1]).tobytes() + parameters


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"dataset_digest": "0" * 64, "rows": 7, "spec": TransferSetSpec(views=9, seed=9)}, True),
        ({"teacher_digest": "0" * 64}, False),
        ({"preprocessing_digest": "0" * 64}, False),
        ({"tempers": False, "temperature": 4.0}, False),
    ],
)
def test_sets_ask_the_same_where_teacher_preprocessing_and_temperature_agree(
    change: dict[str, object], same: bool
) -> None:
    assert make_inputs().asks_the_same(make_inputs(**change)) is same


@pytest.mark.parametrize("file", ["../x.safetensors", "shard-00000.pt", "/shard-00000.safetensors"])
def test_a_manifest_cannot_point_outside_its_folder(file: str) -> None:
    with pytest.raises(ValidationError):
        Shard(file=file, rows=1, sha256="0" * 64)
