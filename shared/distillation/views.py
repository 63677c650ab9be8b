"""Makes views on a device, of images that lie there: the very pixels of `shared.transfer_set.views`.

Everything is whole numbers, so that a GPU, a CPU and numpy agree to the bit. No batch asks the device for a
value: steps queue up behind each other.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int16, Int32, Int64, Shaped, UInt8
from torch import Tensor

from shared.transfer_set.views.applying import TONE_BITS, WEIGHT_BITS, WEIGHT_ONE
from shared.transfer_set.views.parameters import TONE_ONE, ViewParameters


@dataclass(frozen=True, eq=False)
class DeviceView:
    """How one view of each of some images is made, on a device; None where nothing of the kind is done.

    The fields are those of `ViewParameters`.
    """

    crop: Int16[Tensor, "*lead 4"] | None = None
    flip: Bool[Tensor, "*lead"] | None = None
    shift: Int64[Tensor, "*lead 2"] | None = None
    tone: Int16[Tensor, "*lead 2"] | None = None
    cutout: Int16[Tensor, "*lead 4"] | None = None

    @classmethod
    def of(cls, parameters: ViewParameters, size: tuple[int, int], device: torch.device) -> "DeviceView":
        """Return what of the parameters changes any pixel of images of this size (height, width).

        Raises:
            ValueError: a crop is not inside such an image.
        """
        parameters.check(size)
        as_is = ViewParameters.as_is((1,), size).columns()
        used = {
            name: torch.from_numpy(np.array(column)).to(device)
            for name, column in parameters.columns().items()
            if (column != as_is[name]).any()
        }
        if "flip" in used:
            used["flip"] = used["flip"].bool()
        if "shift" in used:
            used["shift"] = used["shift"].long()
        return cls(**used)

    def at(self, rows: Int64[Tensor, "*rows"]) -> "DeviceView":
        """Return that of these rows."""
        return DeviceView(
            *(
                None if tensor is None else tensor[rows]
                for tensor in (self.crop, self.flip, self.shift, self.tone, self.cutout)
            )
        )


class ViewMaker:
    """Holds images and makes views of them.

    Args:
        images: all of them; copied to the device.
        reach: the farthest that any is shifted, in pixels.
        device: where the views are wanted.
    """

    def __init__(
        self, images: UInt8[Tensor, "images height width channels"], *, reach: int, device: torch.device
    ) -> None:
        height, width = images.shape[1:3]
        self._reach = reach
        self._padded = F.pad(images.to(device), (0, 0, reach, reach, reach, reach)).contiguous()
        # windows[n, y, x] is the image-sized piece of padded image n that begins at y, x: a view, not a copy.
        self._windows = self._padded.unfold(1, height, 1).unfold(2, width, 1).movedim(3, -1)

    def make(
        self, rows: Int64[Tensor, "nets batch"], how: DeviceView
    ) -> UInt8[Tensor, "nets batch height width channels"]:
        """Return a view of each of these images; `how` has the leading axes of `rows`."""
        if how.crop is None:
            images = self._moved(rows, how.flip, how.shift)
        else:
            images = self._cropped(rows, how.crop, how.flip, how.shift)
        if how.tone is not None:
            images = _toned(images, how.tone)
        if how.cutout is not None:
            images = _cut_out(images, how.cutout)
        return images

    def _moved(
        self,
        rows: Int64[Tensor, "nets batch"],
        flip: Bool[Tensor, "nets batch"] | None,
        shift: Int64[Tensor, "nets batch 2"] | None,
    ) -> UInt8[Tensor, "nets batch height width channels"]:
        if shift is None:
            images = self._windows[:, self._reach, self._reach].index_select(0, rows.flatten())
            images = images.view(*rows.shape, *images.shape[1:])
        else:
            down, right = shift[..., 0], shift[..., 1]
            if flip is not None:
                # An image that is mirrored and then moves right is one that moves left and is then mirrored.
                right = torch.where(flip, -right, right)
            # Content that moves down and right is read from further up and left.
            images = self._windows[rows, self._reach - down, self._reach - right]
        if flip is not None:
            images = torch.where(flip[..., None, None, None], images.flip(-2), images)
        return images

    def _cropped(
        self,
        rows: Int64[Tensor, "nets batch"],
        crop: Int16[Tensor, "nets batch 4"],
        flip: Bool[Tensor, "nets batch"] | None,
        shift: Int64[Tensor, "nets batch 2"] | None,
    ) -> UInt8[Tensor, "nets batch height width channels"]:
        """Resize, mirror and shift at once: which pixels are read says it all."""
        count, (tall, wide, channels) = rows.numel(), self._padded.shape[1:]
        height, width = tall - 2 * self._reach, wide - 2 * self._reach
        y, x = (torch.arange(side, device=rows.device).expand(count, side) for side in (height, width))
        if shift is not None:
            shifts = shift.view(count, 2)
            y, x = y - shifts[:, :1], x - shifts[:, 1:]
        if flip is not None:
            x = torch.where(flip.view(count, 1), width - 1 - x, x)
        top, left, crop_height, crop_width = crop.long().view(count, 4, 1).unbind(1)
        image = rows.view(count, 1)
        above, below, *weights = _samples(y, top + self._reach + image * tall, crop_height, height)
        lines = _blended(self._padded.view(-1, wide * channels), above, below, *weights)
        before, after, *weights = _samples(x, left + self._reach, crop_width, width)
        # Of every line of an image the same columns are read.
        line = torch.arange(count * height, device=rows.device).view(count, height, 1) * wide
        before, after = line + before.unsqueeze(1), line + after.unsqueeze(1)
        upper, lower = (weight.unsqueeze(1).expand(count, height, width) for weight in weights)
        pixels = _blended(lines.view(-1, channels), before, after, upper, lower)
        pixels += 1 << (2 * WEIGHT_BITS - 1)
        pixels >>= 2 * WEIGHT_BITS
        return pixels.to(torch.uint8).view(*rows.shape, height, width, channels)


def _blended(
    numbers: Shaped[Tensor, "rows columns"],
    first: Int64[Tensor, "*places"],
    second: Int64[Tensor, "*places"],
    weight: Int32[Tensor, "*places"],
    weight_of_second: Int32[Tensor, "*places"],
) -> Int32[Tensor, "blended columns"]:
    """Return sums of two rows each, times their weights."""
    blended = numbers.index_select(0, first.flatten()) * weight.reshape(-1, 1)
    blended += numbers.index_select(0, second.flatten()) * weight_of_second.reshape(-1, 1)
    return blended


def _samples(
    at: Int64[Tensor, "images size"],
    begin: Int64[Tensor, "images 1"],
    length: Int64[Tensor, "images 1"],
    size: int,
) -> tuple[
    Int64[Tensor, "images size"],
    Int64[Tensor, "images size"],
    Int32[Tensor, "images size"],
    Int32[Tensor, "images size"],
]:
    """Return between which two pixels each place lies, and the weights of both; see `views.applying`.

    Places before 0 and from `size` on are outside the image, and weigh nothing.
    """
    place = (2 * at + 1) * length * (WEIGHT_ONE // 2) // size - WEIGHT_ONE // 2
    place = torch.minimum(place.clamp(min=0), (length - 1) * WEIGHT_ONE)
    first = place >> WEIGHT_BITS
    second = torch.minimum(first + 1, length - 1)
    inside = (at >= 0) & (at < size)
    share = place & (WEIGHT_ONE - 1)  # 0 outside, where places were clamped to a pixel's centre
    return begin + first, begin + second, ((WEIGHT_ONE - share) * inside).int(), share.int()


def _toned(
    images: UInt8[Tensor, "*lead height width channels"], tone: Int16[Tensor, "*lead 2"]
) -> UInt8[Tensor, "*lead height width channels"]:
    """Multiply pixels by the brightness, then their distance to the image's mean by the contrast."""
    brightness, contrast = tone.int().unsqueeze(-1).unbind(-2)
    half = TONE_ONE // 2
    pixels = images.flatten(-3)
    numbers = pixels.shape[-1]
    toned = pixels * brightness
    toned += half
    toned >>= TONE_BITS
    toned.clamp_(0, 255)
    mean = ((toned.sum(dim=-1, keepdim=True, dtype=torch.int64) + numbers // 2) // numbers).int()
    toned *= contrast
    toned += mean * (TONE_ONE - contrast) + half
    toned >>= TONE_BITS
    toned.clamp_(0, 255)
    return toned.to(torch.uint8).view(images.shape)


def _cut_out(
    images: UInt8[Tensor, "*lead height width channels"], cutout: Int16[Tensor, "*lead 4"]
) -> UInt8[Tensor, "*lead height width channels"]:
    """Blacken a rectangle of each image."""
    top, left, height, width = cutout.int().unsqueeze(-1).unbind(-2)
    rows = _within(top, height, images.shape[-3])
    columns = _within(left, width, images.shape[-2])
    kept = ~(rows.unsqueeze(-1) & columns.unsqueeze(-2))
    # A product of bytes takes a sixth of the time of a fill by mask.
    return images * kept.unsqueeze(-1).to(torch.uint8)


def _within(
    begin: Int32[Tensor, "*lead 1"], length: Int32[Tensor, "*lead 1"], size: int
) -> Bool[Tensor, "*lead size"]:
    place = torch.arange(size, device=begin.device, dtype=torch.int32)
    return (place >= begin) & (place < begin + length)
