"""How a transfer set lies on disk, and by what its rows are known. For strangers: `docs/transfer-set.md`.

`transfer_sets/<digest of the inputs>/` holds `shard-00000.safetensors`, … and, once all are there,
`manifest.json`. Row g of the whole (shard after shard) is view g // rows of the selected image g % rows; the
column `row` says which training image that is.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from shared.artefacts.files import canonical_json, digest_of
from shared.artefacts.tensors import Array
from shared.contracts.base import Classes, Contract, Digest, Name, Temperature
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.training import TransferSetSpec
from shared.contracts.transfer_sets import TopKError
from shared.transfer_set.views.parameters import PARAMETER_COLUMNS, ViewParameters

TRANSFER_SET_FORMAT: Final = 3
MANIFEST: Final = "manifest.json"
IMAGE_DIGEST_BYTES: Final = 16
ERROR_TEMPERATURES: Final = (1.0, 2.0, 4.0, 8.0, 20.0)
"""At which the error of keeping only the largest logits is measured, where the logits serve any T."""

MOST_SHARD_ROWS: Final = 8192
_SHARD_BYTES: Final = 1 << 26

Column = tuple[np.dtype[Any], tuple[int, ...]]
"""Type of a column, and its numbers a row."""


class TransferSetInputs(Contract):
    """All that decides what is in a transfer set; the digest of it names the folder."""

    format: Literal[3] = TRANSFER_SET_FORMAT
    dataset_digest: Digest
    input: ImageInput
    """Of the dataset's images."""
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

    @property
    def total_rows(self) -> int:
        """Images times views."""
        return self.rows * self.spec.views

    @property
    def kept(self) -> int | None:
        """Logits kept a row; None where all are, as where as many are asked for as there are classes."""
        top_k = self.spec.top_k
        return None if top_k is None or top_k >= len(self.classes) else top_k

    @property
    def error_temperatures(self) -> tuple[float, ...]:
        """At which the error of keeping few logits is measured."""
        return ERROR_TEMPERATURES if self.tempers else (self.temperature,)

    def asks_the_same(self, other: "TransferSetInputs") -> bool:
        """Tell whether the other set asked the same teacher (weights, classes and all) in the same way."""
        return (
            self.teacher_digest == other.teacher_digest
            and self.preprocessing_digest == other.preprocessing_digest
            and self.temperature == other.temperature
        )

    def serves(self, other: "TransferSetInputs") -> bool:
        """Tell whether answers of this set can be taken over into the other one."""
        return self.asks_the_same(other) and self.kept in (None, other.kept)


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
    top_k_error: tuple[TopKError, ...] | None = None
    """KL from the soft targets of all logits to those as stored, over all rows; None where all are kept."""
    created_at: datetime


# --- columns -----------------------------------------------------------------------------------------------


def parameter_columns(spec: TransferSetSpec) -> tuple[str, ...]:
    """Return which parameters of views are stored; the others leave every image as it is."""
    used = {
        "crop": spec.crop_scale is not None,
        "flip": spec.flip,
        "shift": spec.jitter_px > 0,
        "tone": spec.brightness > 0 or spec.contrast > 0,
        "cutout": spec.cutout_px > 0,
    }
    return tuple(name for name in PARAMETER_COLUMNS if used[name])


def answer_columns(inputs: TransferSetInputs) -> dict[str, Column]:
    """Return what is stored of an answer of the teacher."""
    number, classes = np.dtype("<f2"), len(inputs.classes)
    if inputs.kept is None:
        return {"logits": (number, (classes,))}
    return {
        "classes": (class_dtype(classes), (inputs.kept,)),
        "logits": (number, (inputs.kept,)),
        "rest": (number, ()),
        "error": (number, (len(inputs.error_temperatures),)),
    }


def class_dtype(classes: int) -> np.dtype[Any]:
    """Return the type of an index into so many classes: uint16 where that suffices, else int32."""
    return np.dtype("<u2" if classes <= 1 << 16 else "<i4")


def columns_of(inputs: TransferSetInputs) -> dict[str, Column]:
    """Return all columns of a shard, in the order in which `content_digest` takes them."""
    return {
        "row": (np.dtype("<i8"), ()),
        "labelled": (np.dtype("u1"), ()),
        "view": (np.dtype("<i4"), ()),
        **{name: PARAMETER_COLUMNS[name] for name in parameter_columns(inputs.spec)},
        "image_digest": (np.dtype("u1"), (IMAGE_DIGEST_BYTES,)),
        **answer_columns(inputs),
    }


def has_columns(columns: Mapping[str, Array], inputs: TransferSetInputs, rows: int) -> bool:
    """Tell whether these are the columns of a shard of so many rows."""
    expected = columns_of(inputs)
    return columns.keys() == expected.keys() and all(
        columns[name].dtype == dtype and columns[name].shape == (rows, *numbers)
        for name, (dtype, numbers) in expected.items()
    )


def parameters_of(columns: Mapping[str, Array], inputs: TransferSetInputs, rows: int) -> ViewParameters:
    """Return the view parameters of so many rows; those left out take no memory and cannot be written."""
    as_is = ViewParameters.as_is((1,), (inputs.input.height, inputs.input.width)).columns()
    return ViewParameters(
        **{
            name: columns[name] if name in columns else np.broadcast_to(as_is[name][0], (rows, *numbers))
            for name, (_, numbers) in PARAMETER_COLUMNS.items()
        }
    )


# --- names and keys ----------------------------------------------------------------------------------------


def shard_file(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def default_shard_rows(inputs: TransferSetInputs) -> int:
    """Return how many rows a shard has: at most 8,192, and so few that 32-bit logits take 64 MiB at most.

    Images do not count: those of a request are made when it is sent.
    """
    return max(1, min(MOST_SHARD_ROWS, _SHARD_BYTES // (4 * len(inputs.classes))))


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


def row_keys(image_digests: NDArray[np.uint8], parameters: ViewParameters) -> NDArray[np.uint8]:
    """Return by what one answer of a teacher is known, in whichever transfer set it is stored; n x 39.

    A key names the pixels that the teacher saw: the image and how its view is made, which is all that seed,
    options and number of the view come to. No index is in it: the same image in another dataset, or in
    another place, has the same key. Who was asked, and how, is the same for a whole set: `asks_the_same`.

    Args:
        image_digests: of the images as they are, n x 16.
        parameters: of n views.
    """
    return np.concatenate((image_digests, parameters.keys()), axis=1)


def content_digest(columns: Mapping[str, Array], inputs: TransferSetInputs) -> str:
    """Return the SHA-256 over a shard's columns, which its metadata repeats as `content`."""
    digest = hashlib.sha256()
    for name in columns_of(inputs):
        digest.update(np.ascontiguousarray(columns[name]).data)
    return digest.hexdigest()
