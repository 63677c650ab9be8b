"""Reads a finished transfer set, and trusts no byte of it before its digest was compared."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.artefacts.tensors import Array, read_tensors
from shared.errors import Corrupt, InvalidRequest
from shared.transfer_set.format import (
    COLUMNS,
    IMAGE_DIGEST_BYTES,
    MANIFEST,
    TRANSFER_SET_FORMAT,
    TransferSetManifest,
)
from shared.transfer_set.places import FolderFiles, SetFiles


@dataclass(frozen=True)
class TransferSet:
    """What the teacher said of each view of each training image that the set takes."""

    manifest: TransferSetManifest
    rows: NDArray[np.int64]
    """Indices into the training split, rising, rows."""
    labelled: NDArray[np.bool_]
    """Whether the hard label of each image may be used, rows."""
    logits: NDArray[np.float16]
    """z with zero mean in each row, views x rows x classes; softmax(z / T) are the soft targets."""
    shifts: NDArray[np.int8]
    """Pixels down and to the right, views x rows x 2."""
    flips: NDArray[np.uint8]
    """1 where the image is mirrored left to right before it is shifted, views x rows; `views.apply_view`."""
    image_digests: NDArray[np.uint8]
    """Of the images as they are, rows x 16."""

    @classmethod
    def open(cls, files: SetFiles | Path) -> "TransferSet":
        """Read a transfer set; one shard stays mapped, several are put together in memory.

        Args:
            files: of the set, or the folder in which they are.

        Raises:
            FileNotFoundError: there is none, or it is not finished.
            Corrupt: a file is not what the manifest says.
        """
        files = FolderFiles(files) if isinstance(files, Path) else files
        manifest = read_manifest(files)
        inputs = manifest.inputs
        columns = [_read_shard(files.verified(shard.file, shard.sha256)) for shard in manifest.shards]
        shapes: dict[str, tuple[int, ...]] = {
            "row": (),
            "labelled": (),
            "logits": (len(inputs.classes),),
            "shift": (2,),
            "flip": (),
            "image_digest": (IMAGE_DIGEST_BYTES,),
        }
        whole: dict[str, Array] = {}
        for name, shape in shapes.items():
            parts = [column[name] for column in columns]
            joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
            whole[name] = joined.reshape(inputs.spec.views, inputs.rows, *shape)
        return cls(
            manifest=manifest,
            rows=whole["row"][0],
            labelled=whole["labelled"][0] != 0,
            logits=whole["logits"],
            shifts=whole["shift"],
            flips=whole["flip"],
            image_digests=whole["image_digest"][0],
        )

    def logits_at(self, temperature: float) -> NDArray[np.float16]:
        """Return the logits z that a loss at this temperature takes: it divides them by T itself.

        Where the teacher tempers they are the same for every T. An arithmetic ensemble does not: the mean of
        probabilities at one T says nothing exact about another.

        Raises:
            InvalidRequest: the teacher does not temper and was asked at another T.
        """
        inputs = self.manifest.inputs
        if not inputs.tempers and temperature != inputs.temperature:
            raise InvalidRequest(
                f"the logits of this transfer set serve T = {inputs.temperature:g} only, not {temperature:g}",
                remedy="Build a transfer set at this temperature.",
            )
        return self.logits


def read_manifest(files: SetFiles) -> TransferSetManifest:
    """Return the manifest of a transfer set.

    Raises:
        FileNotFoundError: there is none, or it is of another format.
        Corrupt: it contradicts itself.
    """
    path = files.fetch(MANIFEST)
    data = path.read_bytes()
    try:
        manifest = TransferSetManifest.model_validate_json(data)
    except ValidationError as error:
        if _is_of_another_format(data):
            raise FileNotFoundError(path) from error
        raise Corrupt(str(path)) from error
    inputs = manifest.inputs
    total = inputs.rows * inputs.spec.views
    if manifest.digest != inputs.digest or sum(shard.rows for shard in manifest.shards) != total:
        raise Corrupt(str(path))
    return manifest


def _is_of_another_format(data: bytes) -> bool:
    try:
        stated = json.loads(data)["inputs"]["format"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(stated, int) and stated != TRANSFER_SET_FORMAT


def _read_shard(path: Path) -> dict[str, Array]:
    columns, _ = read_tensors(path)
    if set(columns) != set(COLUMNS):
        raise Corrupt(str(path))
    return columns
