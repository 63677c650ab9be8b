"""The examples that nets are trained on: the whole dataset on the device, batches cut from it there.

Teacher and student must see the same view of an image, so a view's shifts come with the teacher's logits and
are replayed here. What a cumbersome model is trained on is jittered anew each epoch instead.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, Int8, Int64, UInt8
from torch import Tensor

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
        logits_temperature: the T that the teacher logits were divided by when stored. It is 1 but for a
            teacher that does not temper, whose logits were asked at the T of the objective.
    """

    images: UInt8[Tensor, "rows height width channels"]
    labels: Int64[Tensor, " rows"] | None
    validation_images: UInt8[Tensor, "validation height width channels"] | None = None
    validation_labels: Int64[Tensor, " validation"] | None = None
    teacher_logits: Float16[Tensor, "views rows classes"] | None = None
    shifts: Int8[Tensor, "views rows 2"] | None = None
    logits_temperature: float = 1.0

    @property
    def rows(self) -> int:
        """How many training images there are."""
        return self.images.shape[0]

    @property
    def views(self) -> int:
        """How many views of each image there are."""
        for per_view in (self.teacher_logits, self.shifts):
            if per_view is not None:
                return per_view.shape[0]
        return 1


@dataclass(frozen=True)
class Batch:
    """One step's batch for each net."""

    images: Float[Tensor, "nets batch channels height width"]
    labels: Int64[Tensor, "nets batch"] | None
    teacher_logits: Float[Tensor, "nets batch classes"] | None


class Batches:
    """Cuts batches out of examples on the device, in an order that follows from seed and epoch alone.

    Args:
        examples: on any device; copied to this one where needed.
        preprocessing: from pixels to what the nets see.
        seeds: each has an order (and a jitter) of its own; a *lane* is an index into them.
        batch_size: images a step; the last step of an epoch has what is left.
        jitter_px: shift each image by up to this many pixels in each direction, anew each epoch.
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
    ) -> None:
        self.rows = examples.rows
        self.steps = -(-examples.rows // batch_size)
        self._views = examples.views
        self._seeds = seeds
        self._batch_size = batch_size
        self._jitter_px = jitter_px
        self._device = device
        self._preprocessing = preprocessing
        self._logits_temperature = examples.logits_temperature
        self._labels = _on(device, examples.labels)
        self._logits = _on(device, examples.teacher_logits)
        self._shifts = _on(device, examples.shifts)
        # Known once and here, so that no step has to wait for the device to say it.
        self._moves = [bool(view.any()) for view in examples.shifts] if examples.shifts is not None else []
        reach = int(examples.shifts.abs().max()) if examples.shifts is not None else 0
        self._margin = margin = max(jitter_px, reach)
        self._height, self._width, self._channels = examples.images.shape[1:]
        padded = F.pad(examples.images.to(device), (0, 0, margin, margin, margin, margin))
        self._row_values = padded.shape[2] * padded.shape[3]
        self._pixels = padded.flatten(1)
        self._window = self._window_offsets()
        self._view = 0
        self._order = torch.empty(0)
        self._jitter: Tensor | None = None

    def lanes(self, seeds: tuple[int, ...]) -> Int64[Tensor, " nets"]:
        """Return the lanes of the seeds."""
        return torch.tensor([self._seeds.index(seed) for seed in seeds], device=self._device)

    def start_epoch(self, epoch: int) -> None:
        """Fix order and shifts of an epoch (counted from 0), which sees view `epoch % views`."""
        self._view = epoch % self._views
        self._order = torch.stack([self._drawn_order(seed, epoch) for seed in self._seeds]).to(self._device)
        if self._jitter_px:
            jitter = torch.stack([self._drawn_jitter(seed, epoch) for seed in self._seeds])
            self._jitter = jitter.to(self._device)

    def batch(self, step: int, lanes: Int64[Tensor, " nets"]) -> Batch:
        """Return the batch of a step (counted from 0) of the epoch that was started, one a lane."""
        rows = self._order[:, step * self._batch_size : (step + 1) * self._batch_size].index_select(0, lanes)
        logits = None
        if self._logits is not None:
            # Back to T = 1: softening to any other T is the loss's business.
            logits = self._logits[self._view][rows].float() * self._logits_temperature
        return Batch(
            images=normalise(self._images(rows, lanes), self._preprocessing),
            labels=self._labels[rows] if self._labels is not None else None,
            teacher_logits=logits,
        )

    def _drawn_order(self, seed: int, epoch: int) -> Int64[Tensor, " rows"]:
        return torch.randperm(self.rows, generator=generator_of("batch order", seed, epoch))

    def _drawn_jitter(self, seed: int, epoch: int) -> Int64[Tensor, "rows 2"]:
        generator = generator_of("jitter", seed, epoch)
        return torch.randint(-self._jitter_px, self._jitter_px + 1, (self.rows, 2), generator=generator)

    def _images(
        self, rows: Int64[Tensor, "nets batch"], lanes: Int64[Tensor, " nets"]
    ) -> UInt8[Tensor, "nets batch height width channels"]:
        pixels = self._pixels.index_select(0, rows.flatten())
        if self._margin:
            down, right = self._shifts_of(rows, lanes)
            # Content that moves down and right is read from further up and left.
            start = (self._margin - down) * self._row_values + (self._margin - right) * self._channels
            pixels = pixels.gather(1, start.view(-1, 1) + self._window)
        return pixels.view(*rows.shape, self._height, self._width, self._channels)

    def _shifts_of(
        self, rows: Int64[Tensor, "nets batch"], lanes: Int64[Tensor, " nets"]
    ) -> tuple[Int64[Tensor, "nets batch"], Int64[Tensor, "nets batch"]]:
        if self._jitter is not None:
            shifts = self._jitter[lanes.unsqueeze(1), rows]
        elif self._shifts is not None and self._moves[self._view]:
            shifts = self._shifts[self._view][rows].long()
        else:
            return torch.zeros_like(rows), torch.zeros_like(rows)
        return shifts[..., 0], shifts[..., 1]

    def _window_offsets(self) -> Int64[Tensor, " values"]:
        """Return how far the values of an unpadded image lie from its first one, in a padded image."""
        rows = torch.arange(self._height, device=self._device)[:, None] * self._row_values
        return (rows + torch.arange(self._width * self._channels, device=self._device)).flatten()


def _on(device: torch.device, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
