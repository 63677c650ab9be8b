"""The examples that nets are trained on: the whole dataset on the device, batches cut from it there.

Teacher and student must see the same view of an image, so the parameters of a view come with the teacher's
logits and are replayed here. What a cumbersome model is trained on is jittered anew each epoch instead.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from shared.artefacts.files import sha256_bytes
from shared.contracts.images import Preprocessing
from shared.distillation.teacher_answers import LiveLogits, SparseLogits, TeacherLogits
from shared.distillation.views import DeviceView, ViewMaker
from shared.models.normalise import normalise
from shared.models.seeds import generator_of
from shared.transfer_set.views.parameters import ViewParameters


@dataclass(frozen=True)
class Examples:
    """Training and validation images, and what is known about each.

    Attributes:
        images: the training images.
        labels: their true classes, `losses.UNLABELLED` (-1) where unknown, or None where all are.
        validation_images: decide which epoch is kept; None keeps the last.
        validation_labels: their true classes.
        teacher_logits: what the teacher said of each view of each training image, or None to train without.
        parameters: of each view of each image (views x rows), or None for one view, as it is. They stay where
            they are, in memory or mapped, but for the view of an epoch.
        logits_temperature: the T that the teacher logits were divided by when stored. It is 1 but for a
            teacher that does not temper, whose logits were asked at the T of the objective.
        live: in place of `teacher_logits`, those that are still to come, as many views of the same rows.

    Raises:
        ValueError: logits are both there and to come, or not all are of the same views and rows.
    """

    images: UInt8[Tensor, "rows height width channels"]
    labels: Int64[Tensor, " rows"] | None
    validation_images: UInt8[Tensor, "validation height width channels"] | None = None
    validation_labels: Int64[Tensor, " validation"] | None = None
    teacher_logits: Float16[Tensor, "views rows classes"] | SparseLogits | None = None
    parameters: ViewParameters | None = None
    logits_temperature: float = 1.0
    live: LiveLogits | None = None

    def __post_init__(self) -> None:
        if self.live is not None and self.teacher_logits is not None:
            raise ValueError("teacher logits are there, or they come live; not both")
        given: set[tuple[int, ...]] = {(self.views, self.rows)}
        if self.parameters is not None:
            given.add(self.parameters.shape)
        if self.teacher_logits is not None:
            given.add(tuple(self.teacher_logits.shape[:2]))
        if self.live is not None:
            given.add((self.live.views, self.rows))
        if len(given) > 1:
            raise ValueError(f"images, views and logits are not of the same views and rows: {sorted(given)}")

    @property
    def rows(self) -> int:
        """How many training images there are."""
        return self.images.shape[0]

    @property
    def views(self) -> int:
        """How many views of each image there are."""
        if self.live is not None:
            return self.live.views
        for per_view in (self.teacher_logits, self.parameters):
            if per_view is not None:
                return per_view.shape[0]
        return 1

    def digests(self) -> dict[str, str]:
        """Return by name digests of all that a training learns from; of live logits, of what they will be."""
        arrays: dict[str, Tensor | NDArray[Any] | None] = {
            "images": self.images,
            "labels": self.labels,
            "validation_images": self.validation_images,
            "validation_labels": self.validation_labels,
        }
        if isinstance(self.teacher_logits, SparseLogits):
            said = self.teacher_logits
            arrays |= {"kept": said.indices, "values": said.values, "rest": said.rest}
        else:
            arrays["teacher_logits"] = self.teacher_logits
        if self.parameters is not None:
            arrays |= self.parameters.columns()
        digests = {name: _digest_of(array) for name, array in arrays.items() if array is not None}
        return digests if self.live is None else {**digests, "live": self.live.digest}


@dataclass(frozen=True)
class Batch:
    """One step's batch for each net; `pixels` are the images before they were normalised."""

    images: Float[Tensor, "nets batch channels height width"]
    pixels: UInt8[Tensor, "nets batch height width channels"]
    labels: Int64[Tensor, "nets batch"] | None
    teacher_logits: Float[Tensor, "nets batch classes"] | None


_BYTES_AT_ONCE = 1 << 26

RowsOfEpoch = Callable[[int, int], Tensor]
"""Told a seed and an epoch (from 0), returns the rows (int64) that the seed is shown in it, in order."""


class Batches:
    """Cuts batches out of examples on the device, in an order that follows from seed and epoch alone.

    Args:
        examples: on any device; copied to this one where needed.
        preprocessing: from pixels to what the nets see.
        seeds: each has an order (jitter and flips) of its own; a *lane* is an index into them.
        batch_size: images a step; the last step of an epoch has what is left.
        jitter_px: shift each image by up to this many pixels in each direction, anew each time it is shown.
        flip: mirror each image with probability 1/2, anew each time it is shown.
        rows_of_epoch: which rows an epoch shows, equally many in each; None shows each row once.
        device: where the batches are wanted.
    """

    def __init__(
        self,
        examples: Examples,
        preprocessing: Preprocessing,
        *,
        seeds: tuple[int, ...],
        batch_size: int,
        jitter_px: int,
        device: torch.device,
        flip: bool = False,
        rows_of_epoch: RowsOfEpoch | None = None,
    ) -> None:
        self._all_rows = examples.rows
        self._rows_of_epoch = rows_of_epoch
        self.rows = examples.rows if rows_of_epoch is None else len(rows_of_epoch(seeds[0], 0))
        """Shown in an epoch."""
        self.steps = -(-self.rows // batch_size)
        self._views = examples.views
        self._seeds = seeds
        self._batch_size = batch_size
        self._jitter_px = jitter_px
        self._flip = flip
        self._device = device
        self._preprocessing = preprocessing
        self._logits_temperature = examples.logits_temperature
        self._labels = None if examples.labels is None else examples.labels.to(device)
        self._logits: TeacherLogits | None = None
        if examples.teacher_logits is not None:
            self._logits = examples.teacher_logits.to(device)
        self._live = examples.live
        self._parameters = examples.parameters
        self._size = (examples.images.shape[1], examples.images.shape[2])
        reach = jitter_px
        if self._parameters is not None:
            shift = self._parameters.shift
            reach = max(reach, -int(shift.min(initial=0)), int(shift.max(initial=0)))
        self._maker = ViewMaker(examples.images, reach=reach, device=device)
        self._order = torch.empty(0)
        self._logits_of_view: TeacherLogits | None = None
        self._view = DeviceView()
        self._drawn_shifts: Tensor | None = None
        self._drawn_flips: Tensor | None = None

    def lanes(self, seeds: tuple[int, ...]) -> Int64[Tensor, " nets"]:
        """Return the lanes of the seeds."""
        return torch.tensor([self._seeds.index(seed) for seed in seeds], device=self._device)

    def take_logits(self, logits: Float16[Tensor, "views rows classes"]) -> None:
        """Take these teacher logits (at T = 1) from now on.

        Raises:
            ValueError: they are not of every view of every row.
        """
        if logits.shape[:2] != (self._views, self._all_rows):
            raise ValueError(
                f"teacher logits are wanted of {self._views} views of {self._all_rows} rows, got "
                f"{' x '.join(map(str, logits.shape))}"
            )
        self._logits = logits.to(self._device)
        self._logits_temperature = 1.0

    def start_epoch(self, epoch: int) -> None:
        """Fix order, shifts and flips of an epoch (counted from 0), which sees view `epoch % views`.

        Where the teacher answers live, this waits until it has answered all of the view.

        Raises:
            ValueError: `rows_of_epoch` names rows that are not there, or not as many as before; a crop of the
                view is not inside the images; or the live answers are not of every row.
        """
        view = epoch % self._views
        self._order = torch.stack([self._rows_shown(seed, epoch) for seed in self._seeds]).to(self._device)
        if self._jitter_px:
            drawn = [self._draw_shifts(seed, epoch) for seed in self._seeds]
            self._drawn_shifts = torch.stack(drawn).to(self._device)
        if self._flip:
            drawn = [self._draw_flips(seed, epoch) for seed in self._seeds]
            self._drawn_flips = torch.stack(drawn).to(self._device)
        if self._parameters is not None:
            # Known once and here what is done at all, so that no step has to wait for the device to say it.
            self._view = DeviceView.of(self._parameters[view], self._size, self._device)
        if self._live is not None:
            self._logits_of_view = self._live.logits(view).to(self._device)
            if self._logits_of_view.shape[:1] != (self._all_rows,):
                raise ValueError(
                    f"live answers are wanted of {self._all_rows} rows, got "
                    f"{' x '.join(map(str, self._logits_of_view.shape))}"
                )
        elif self._logits is not None:
            self._logits_of_view = self._logits[view]

    def batch(self, step: int, lanes: Int64[Tensor, " nets"]) -> Batch:
        """Return the batch of a step (counted from 0) of the epoch that was started, one a lane."""
        shown = slice(step * self._batch_size, (step + 1) * self._batch_size)
        rows = self._order[:, shown].index_select(0, lanes)
        logits = None
        if self._logits_of_view is not None:
            # Back to T = 1: softening to any other T is the loss's business.
            logits = self._logits_of_view[rows].float() * self._logits_temperature
        pixels = self._maker.make(rows, self._view_of(rows, lanes, shown))
        return Batch(
            images=normalise(pixels, self._preprocessing),
            pixels=pixels,
            labels=self._labels[rows] if self._labels is not None else None,
            teacher_logits=logits,
        )

    def digest_of_rows(self) -> str:
        """Return a digest of the rows that the first epoch shows."""
        shown = torch.stack([self._rows_shown(seed, 0) for seed in self._seeds])
        return sha256_bytes(shown.numpy().tobytes())

    def _rows_shown(self, seed: int, epoch: int) -> Int64[Tensor, " rows"]:
        if self._rows_of_epoch is None:
            return torch.randperm(self.rows, generator=generator_of("batch order", seed, epoch))
        rows = self._rows_of_epoch(seed, epoch)
        if rows.shape != (self.rows,) or int(rows.min()) < 0 or int(rows.max()) >= self._all_rows:
            raise ValueError(
                f"epoch {epoch} of seed {seed} must show {self.rows} of {self._all_rows} rows, got "
                f"{len(rows)} from {int(rows.min())} to {int(rows.max())}"
            )
        return rows

    def _draw_shifts(self, seed: int, epoch: int) -> Int64[Tensor, "rows 2"]:
        generator = generator_of("jitter", seed, epoch)
        return torch.randint(-self._jitter_px, self._jitter_px + 1, (self.rows, 2), generator=generator)

    def _draw_flips(self, seed: int, epoch: int) -> Bool[Tensor, " rows"]:
        generator = generator_of("flips", seed, epoch)
        return torch.randint(0, 2, (self.rows,), generator=generator, dtype=torch.uint8).bool()

    def _view_of(
        self, rows: Int64[Tensor, "nets batch"], lanes: Int64[Tensor, " nets"], shown: slice
    ) -> DeviceView:
        """Return how the images of a batch are made: as it is stored, or as was drawn for this epoch."""
        if self._drawn_shifts is None and self._drawn_flips is None:
            return self._view.at(rows)
        return DeviceView(
            flip=None if self._drawn_flips is None else self._drawn_flips[:, shown].index_select(0, lanes),
            shift=None if self._drawn_shifts is None else self._drawn_shifts[:, shown].index_select(0, lanes),
        )


def _digest_of(array: Tensor | NDArray[Any]) -> str:
    """Return the SHA-256 of the numbers, a piece at a time: stored arrays may be larger than memory."""
    digest = hashlib.sha256()
    at_once = max(1, _BYTES_AT_ONCE * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), at_once):
        piece = array[start : start + at_once]
        numbers = piece.cpu().numpy() if isinstance(piece, Tensor) else piece
        digest.update(np.ascontiguousarray(numbers).data)
    return digest.hexdigest()
