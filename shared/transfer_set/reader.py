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
    MANIFEST,
    TRANSFER_SET_FORMAT,
    Shard,
    TransferSetInputs,
    TransferSetManifest,
    answer_columns,
    columns_of,
    has_columns,
    parameter_columns,
    parameters_of,
)
from shared.transfer_set.places import FolderFiles, SetFiles
from shared.transfer_set.topk import SparseLogits
from shared.transfer_set.views.parameters import ViewParameters


@dataclass(frozen=True)
class TransferSet:
    """What the teacher said of each view of each training image that the set takes."""

    manifest: TransferSetManifest
    rows: NDArray[np.int64]
    """Indices into the training split, rising, rows."""
    labelled: NDArray[np.bool_]
    """Whether the hard label of each image may be used, rows."""
    parameters: ViewParameters
    """How each view of each image is made, views x rows; what the spec does not use cannot be written."""
    image_digests: NDArray[np.uint8]
    """Of the images as they are, rows x 16."""
    answers: NDArray[np.float16] | SparseLogits
    """All logits, views x rows x classes, or the largest of each row, views x rows."""

    @classmethod
    def open(cls, files: SetFiles | Path) -> "TransferSet":
        """Read a transfer set. One shard stays mapped; of several each is copied to its place and let go.

        Args:
            files: of the set, or the folder in which they are.

        Raises:
            FileNotFoundError: there is none, or it is not finished.
            Corrupt: a file is not what the manifest says; it is named.
        """
        files = FolderFiles(files) if isinstance(files, Path) else files
        manifest = read_manifest(files)
        inputs = manifest.inputs
        if len(manifest.shards) == 1:
            columns = read_shard(files, manifest.shards[0], inputs)
        else:
            columns = _joined(files, manifest)
        views, rows = inputs.spec.views, inputs.rows
        answers = {
            name: columns[name].reshape(views, rows, *numbers)
            for name, (_, numbers) in answer_columns(inputs).items()
            if name != "error"
        }
        return cls(
            manifest=manifest,
            rows=columns["row"][:rows],
            labelled=columns["labelled"][:rows] != 0,
            parameters=parameters_of(columns, inputs, inputs.total_rows).reshape(views, rows),
            image_digests=columns["image_digest"][:rows],
            answers=answers["logits"]
            if inputs.kept is None
            else SparseLogits(
                answers["classes"], answers["logits"], answers["rest"], total=len(inputs.classes)
            ),
        )

    @property
    def sparse(self) -> SparseLogits | None:
        """The largest logits of each row; None where all are stored."""
        return self.answers if isinstance(self.answers, SparseLogits) else None

    @property
    def logits(self) -> NDArray[np.float16]:
        """z, views x rows x classes; softmax(z / T) are the soft targets.

        Where only the largest are stored, this makes a whole array of them each time.
        """
        return self.answers.dense() if isinstance(self.answers, SparseLogits) else self.answers

    def logits_at(self, temperature: float) -> NDArray[np.float16]:
        """Return the logits z that a loss at this temperature takes: it divides them by T itself.

        Raises:
            InvalidRequest: as `check_temperature`.
        """
        self.check_temperature(temperature)
        return self.logits

    def check_temperature(self, temperature: float) -> None:
        """See that the logits serve this temperature.

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
    rows = sum(shard.rows for shard in manifest.shards)
    if manifest.digest != inputs.digest or rows != inputs.total_rows:
        raise Corrupt(str(path))
    return manifest


def read_shard(files: SetFiles, shard: Shard, inputs: TransferSetInputs) -> dict[str, Array]:
    """Return the columns of one shard, mapped and not copied, once its digest was compared.

    Raises:
        Corrupt: the shard is missing, or not what the manifest says.
    """
    path = files.verified(shard.file, shard.sha256)
    columns, _ = read_tensors(path)
    if not has_columns(columns, inputs, shard.rows):
        raise Corrupt(str(path))
    return columns


def _joined(files: SetFiles, manifest: TransferSetManifest) -> dict[str, Array]:
    """Return the columns of all shards together; of what is the same in all views, those of the first."""
    inputs = manifest.inputs
    sizes = dict.fromkeys((*parameter_columns(inputs.spec), *answer_columns(inputs)), inputs.total_rows)
    sizes |= dict.fromkeys(("row", "labelled", "image_digest"), inputs.rows)
    sizes.pop("error", None)
    layout = columns_of(inputs)
    whole = {name: np.empty((rows, *layout[name][1]), layout[name][0]) for name, rows in sizes.items()}
    begin = 0
    for shard in manifest.shards:
        columns = read_shard(files, shard, inputs)
        for name in sizes:
            place = whole[name][begin : begin + shard.rows]  # shorter, or empty, beyond the first view
            place[:] = columns[name][: len(place)]
        begin += shard.rows
    return whole


def _is_of_another_format(data: bytes) -> bool:
    try:
        stated = json.loads(data)["inputs"]["format"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(stated, int) and stated != TRANSFER_SET_FORMAT
