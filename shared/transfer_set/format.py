"""How a transfer set lies on disk, and by what its rows are known. For strangers: `docs/transfer-set.md`.

`transfer_sets/<digest of the inputs>/` holds `shard-00000.safetensors`, … and, once all are there,
`manifest.json`. Row g of the whole (shard after shard) is view g // rows of the selected image g % rows; the
column `row` says which training image that is.
"""

import hashlib
from collections.abc import Iterable
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

TRANSFER_SET_FORMAT: Final = 2
MANIFEST: Final = "manifest.json"
IMAGE_DIGEST_BYTES: Final = 16

COLUMNS: Final = ("row", "labelled", "view", "flip", "shift", "image_digest", "logits")
"""Of a shard, n rows: int64 n; uint8 n; int32 n; uint8 n; int8 n x 2 (down, right); uint8 n x 16; float16
n x classes."""


class TransferSetInputs(Contract):
    """All that decides what is in a transfer set; the digest of it names the folder."""

    format: Literal[2] = TRANSFER_SET_FORMAT
    dataset_digest: Digest
    rows: int = Field(ge=1)
    """Training images that the set takes; `selection.select_rows` draws them."""
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

    def asks_the_same(self, other: "TransferSetInputs") -> bool:
        """Tell whether the other set asked the same teacher (weights, classes and all) in the same way."""
        return (
            self.teacher_digest == other.teacher_digest
            and self.preprocessing_digest == other.preprocessing_digest
            and self.temperature == other.temperature
        )


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


def image_digests(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the first 16 bytes of the SHA-256 of each image's shape and pixels, N x 16."""
    digests = bytearray()
    for image in images:
        shape = canonical_json(list(image.shape)) + b"\n"
        digests += hashlib.sha256(shape + image.tobytes()).digest()[:IMAGE_DIGEST_BYTES]
    return np.frombuffer(digests, np.uint8).reshape(-1, IMAGE_DIGEST_BYTES)


def row_keys(
    image_digests: NDArray[np.uint8], shifts: NDArray[np.int8], flips: NDArray[np.uint8]
) -> NDArray[np.bytes_]:
    """Return by what one answer of a teacher is known, in whichever transfer set it is stored; n strings.

    A key names the pixels that the teacher saw: the image, its shift and whether it was mirrored, which is
    all that seed and view come to. No index is in it: the same image in another dataset, or in another place,
    has the same key. Who was asked, and how, is the same for a whole set: `asks_the_same`.

    Args:
        image_digests: of the images as they are, n x 16.
        shifts: pixels down and to the right, n x 2.
        flips: 1 where the image was mirrored, n.
    """
    parts = (image_digests, shifts.view(np.uint8), flips[:, np.newaxis])
    keys = np.ascontiguousarray(np.concatenate(parts, axis=1))
    # Trailing zeros, which strings of bytes leave out, are the same for all keys of one length.
    return keys.view(f"S{keys.shape[1]}")[:, 0]


def content_digest(columns: dict[str, Array]) -> str:
    """Return the SHA-256 over a shard's columns, which its metadata repeats as `content`."""
    digest = hashlib.sha256()
    for name in COLUMNS:
        digest.update(np.ascontiguousarray(columns[name]).data)
    return digest.hexdigest()
