"""The examples that nets are trained on: the whole dataset on the device, batches cut from it there.

Teacher and student must see the same view of an image, so a view's shifts come with the teacher's logits and
are replayed here. What a cumbersome model is trained on is jittered anew each epoch instead.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float16, Int8, Int64, UInt8
from torch import Tensor

from shared.artefacts.files import sha256_bytes
from shared.contracts.images import Preprocessing
from shared.models.normalise import normalise
from shared.models.seeds import generator_of


@dataclass(frozen=True)
class Examples:
    """Training and validation images, and what is known about each.

    Attributes:
        images: the training images.
        labels: their true classes, `losses.UNLABELLED` (-1) where unknown, or None where all are.
        validation_images: decide which epoch is kept; None keeps the last.
        validation_labels: their true classes.
        teacher_logits: what the teacher said of each view of each training image, or None to train without.
        shifts: by how many pixels (down, right) each view of each image is shifted; None means one view, as
            it is.
        flips: 1 where a view of an image is mirrored left to right before it is shifted; None means none is.
        logits_temperature: the T that the teacher logits were divided by when stored. It is 1 but for a
            teacher that does not temper, whose logits were asked at the T of the objective.
    """

    images: UInt8[Tensor, "rows height width channels"]
    labels: Int64[Tensor, " rows"] | None
    validation_images: UInt8[Tensor, "validation height width channels"] | None = None
    validation_labels: Int64[Tensor, " validation"] | None = None
    teacher_logits: Float16[Tensor, "views rows classes"] | None = None
    shifts: Int8[Tensor, "views rows 2"] | None = None
    flips: UInt8[Tensor, "views rows"] | None = None
    logits_temperature: float = 1.0

    @property
    def rows(self) -> int:
        """How many training images there are."""
        return self.images.shape[0]

    @property
    def views(self) -> int:
        """How many views of each image there are."""
        for per_view in (self.teacher_logits, self.shifts, self.flips):
            if per_view is not None:
                return per_view.shape[0]
        return 1


@dataclass(frozen=True)
class Batch:
    """One step's batch for each net; `pixels` are the images before they were normalised."""

    images: Float[Tensor, "nets batch channels height width"]
    pixels: UInt8[Tensor, "nets batch height width channels"]
    labels: Int64[Tensor, "nets batch"] | None
    teacher_logits: Float[Tensor, "nets batch classes"] | None


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
        self._labels = _on(device, examples.labels)
        self._logits = _on(device, examples.teacher_logits)
        self._shifts = _on(device, examples.shifts)
        self._flips = _on(device, examples.flips)
        # Known once and here, so that no step has to wait for the device to say it.
        self._moves = [bool(view.any()) for view in examples.shifts] if examples.shifts is not None else []
        self._mirrors = [bool(view.any()) for view in examples.flips] if examples.flips is not None else []
        reach = int(examples.shifts.abs().max()) if examples.shifts is not None else 0
        self._margin = margin = max(jitter_px, reach)
        height, width = examples.images.shape[1:3]
        padded = F.pad(examples.images.to(device), (0, 0, margin, margin, margin, margin))
        # windows[n, y, x] is the image-sized piece of padded image n that begins at y, x: a view, not a copy.
        self._windows = padded.unfold(1, height, 1).unfold(2, width, 1).movedim(3, -1)
        self._view = 0
        self._order = torch.empty(0)
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

        Raises:
            ValueError: `rows_of_epoch` names rows that are not there, or not as many as before.
        """
        self._view = epoch % self._views
        self._order = torch.stack([self._rows_shown(seed, epoch) for seed in self._seeds]).to(self._device)
        if self._jitter_px:
            drawn = [self._draw_shifts(seed, epoch) for seed in self._seeds]
            self._drawn_shifts = torch.stack(drawn).to(self._device)
        if self._flip:
            drawn = [self._draw_flips(seed, epoch) for seed in self._seeds]
            self._drawn_flips = torch.stack(drawn).to(self._device)

    def batch(self, step: int, lanes: Int64[Tensor, " nets"]) -> Batch:
        """Return the batch of a step (counted from 0) of the epoch that was started, one a lane."""
        shown = slice(step * self._batch_size, (step + 1) * self._batch_size)
        rows = self._order[:, shown].index_select(0, lanes)
        logits = None
        if self._logits is not None:
            # Back to T = 1: softening to any other T is the loss's business.
            logits = self._logits[self._view][rows].float() * self._logits_temperature
        pixels = self._images(rows, lanes, shown)
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

    def _images(
        self, rows: Int64[Tensor, "nets batch"], lanes: Int64[Tensor, " nets"], shown: slice
    ) -> UInt8[Tensor, "nets batch height width channels"]:
        shifts, flips = self._shifts_of(rows, lanes, shown), self._flips_of(rows, lanes, shown)
        if shifts is None:
            images = self._windows[:, self._margin, self._margin].index_select(0, rows.flatten())
            images = images.view(*rows.shape, *images.shape[1:])
        else:
            down, right = shifts[..., 0], shifts[..., 1]
            if flips is not None:
                # An image that is mirrored and then moves right is one that moves left and is then mirrored.
                right = torch.where(flips, -right, right)
            # Content that moves down and right is read from further up and left.
            images = self._windows[rows, self._margin - down, self._margin - right]
        if flips is not None:
            images = torch.where(flips[..., None, None, None], images.flip(-2), images)
        return images

    def _shifts_of(
        self, rows: Int64[Tensor, "nets batch"], lanes: Int64[Tensor, " nets"], shown: slice
    ) -> Int64[Tensor, "nets batch 2"] | None:
        if self._drawn_shifts is not None:
            return self._drawn_shifts[:, shown].index_select(0, lanes)
        if self._shifts is not None and self._moves[self._view]:
            return self._shifts[self._view][rows].long()
        return None

    def _flips_of(
        self, rows: Int64[Tensor, "nets batch"], lanes: Int64[Tensor, " nets"], shown: slice
    ) -> Bool[Tensor, "nets batch"] | None:
        if self._drawn_flips is not None:
            return self._drawn_flips[:, shown].index_select(0, lanes)
        if self._flips is not None and self._mirrors[self._view]:
            return self._flips[self._view][rows].bool()
        return None


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
