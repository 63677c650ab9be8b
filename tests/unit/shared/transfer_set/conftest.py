"""Real digits, and a teacher that is a fixed linear map of their pixels."""

from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.files import digest_of
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.training import TransferSetSpec
from shared.datasets.builtin import DIGITS, load_builtin
from shared.transfer_set.format import TransferSetInputs, preprocessing_digest
from shared.transfer_set.known import KnownAnswers
from shared.transfer_set.selection import select_rows
from shared.transfer_set.writer import TransferSetWriter

ROWS = 100


class LinearTeacher:
    """Counts what it was asked."""

    def __init__(self) -> None:
        self.weights = np.random.default_rng(0).normal(size=(784, 10)).astype(np.float32)
        self.rows = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.rows += len(images)
        return images.reshape(len(images), 784).astype(np.float32) / 255 @ self.weights + 3


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    return load_builtin("mnist-5k", None)[0]["train"].images[:ROWS]


@pytest.fixture
def teacher() -> LinearTeacher:
    return LinearTeacher()


def make_inputs(**changes: object) -> TransferSetInputs:
    preprocessing = Preprocessing(
        input=ImageInput(height=28, width=28, channels=1), mean=(0.13,), std=(0.31,)
    )
    fields: dict[str, object] = {
        "dataset_digest": digest_of("digits"),
        "input": preprocessing.input,
        "rows": ROWS,
        "teacher": "linear",
        "teacher_digest": digest_of("linear"),
        "preprocessing_digest": preprocessing_digest(preprocessing),
        "classes": DIGITS,
        "spec": TransferSetSpec(views=3, jitter_px=2, flip=True, seed=1),
        "tempers": True,
    }
    return TransferSetInputs.model_validate({**fields, **changes})


@pytest.fixture
def inputs() -> TransferSetInputs:
    return make_inputs()


@pytest.fixture
def writer(tmp_path: Path, inputs: TransferSetInputs, digits: np.ndarray) -> TransferSetWriter:
    """300 rows in shards of 64: the last is shorter, and shards cross from one view to the next."""
    return make_writer(tmp_path / inputs.digest, inputs, digits, shard_rows=64)


def make_writer(
    directory: Path,
    inputs: TransferSetInputs,
    images: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    shard_rows: int | None = None,
    known: KnownAnswers | None = None,
) -> TransferSetWriter:
    """Return a writer for the images that the spec selects."""
    return TransferSetWriter(
        directory,
        inputs,
        images=images,
        selection=select_rows(inputs.spec, labels, inputs.classes, images=len(images)),
        known=known,
        shard_rows=shard_rows,
    )


def write_all(writer: TransferSetWriter, teacher: LinearTeacher) -> None:
    for number in writer.missing_shards():
        writer.write_shard(number, teacher(writer.batch(number).images))
    writer.finish()
