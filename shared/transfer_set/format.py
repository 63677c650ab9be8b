"""How a transfer set lies on disk, and by what its rows are known. For strangers: `docs/transfer-set.md`.

`transfer_sets/<digest of the inputs>/` holds `shard-00000.safetensors`, … and, once all are there,
`manifest.json`. Row g of the whole (shard after shard) is view g // rows of training image g % rows.
"""

import hashlib
from datetime import datetime
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from shared.artefacts.files import canonical_json, digest_of
from shared.artefacts.tensors import Array
from shared.contracts.base import Classes, Contract, Digest, Name, Temperature
from shared.contracts.images import Preprocessing
from shared.contracts.training import TransferSetSpec

TRANSFER_SET_FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
IMAGE_DIGEST_BYTES: Final = 16

COLUMNS: Final = ("row", "view", "shift", "image_digest", "logits")
"""Of a shard, n rows: int64 n; int32 n; int8 n x 2 (down, right); uint8 n x 16; float16 n x classes."""


class TransferSetInputs(Contract):
    """All that decides what is in a transfer set; the digest of it names the folder."""

    format: Literal[1] = TRANSFER_SET_FORMAT
    dataset_digest: Digest
    rows: int = Field(ge=1)
    """Images in the training split."""
    teacher: Name
    teacher_digest: Digest
    preprocessing_digest: Digest
    classes: Classes
    """In the order of the logits."""
    spec: TransferSetSpec
    tempers: bool
    """True where the logits serve any T; False where only at `temperature` (an arithmetic ensemble)."""
    temperature: Temperature = 1.0
    """T at which the teacher was asked."""

    @model_validator(mode="after")
    def _asked_at_1_if_it_tempers(self) -> "TransferSetInputs":
        if self.tempers and self.temperature != 1.0:
            raise ValueError("a teacher that tempers is asked at T = 1")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of all fields."""
        return digest_of(self.model_dump(mode="json"))


class Shard(Contract):
    """One file of the set: its name, how many rows it has, and its SHA-256."""

    file: str = Field(pattern=r"^shard-[0-9]{5,}\.safetensors$")
    rows: int = Field(ge=1)
    sha256: Digest


class TransferSetManifest(Contract):
    """`manifest.json`: it is written last, so where it is the set is whole."""

    digest: Digest
    inputs: TransferSetInputs
    shards: tuple[Shard, ...]
    created_at: datetime


def shard_file(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def preprocessing_digest(preprocessing: Preprocessing) -> str:
    """Return the digest of how pixels become what the teacher sees."""
    return digest_of(preprocessing.model_dump(mode="json"))


def image_digests(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the first 16 bytes of the SHA-256 of each image's shape and pixels, N x 16."""
    shape = canonical_json(list(images.shape[1:])) + b"\n"
    digests = b"".join(
        hashlib.sha256(shape + np.ascontiguousarray(image).tobytes()).digest()[:IMAGE_DIGEST_BYTES]
        for image in images
    )
    return np.frombuffer(bytearray(digests), np.uint8).reshape(len(images), IMAGE_DIGEST_BYTES)


def row_key(image_digest: Array, shift: Array, inputs: TransferSetInputs) -> str:
    """Return by what one answer of the teacher is known, in whichever transfer set it is stored.

    It names the pixels that the teacher saw (image and shift: all that seed, view and jitter come to), who
    was asked (weights and all else in the teacher's digest), how pixels became numbers, and at which T. No
    index is in it: the same image in another dataset, or in another place, has the same key.
    """
    return digest_of(
        {
            "image": bytes(image_digest.astype(np.uint8)).hex(),
            "shift": [int(pixels) for pixels in shift],
            "teacher": inputs.teacher_digest,
            "preprocessing": inputs.preprocessing_digest,
            "temperature": inputs.temperature,
        }
    )


def content_digest(columns: dict[str, Array]) -> str:
    """Return the SHA-256 over a shard's columns, which its metadata repeats as `content`."""
    digest = hashlib.sha256()
    for name in COLUMNS:
        digest.update(np.ascontiguousarray(columns[name]).data)
    return digest.hexdigest()
