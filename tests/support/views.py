"""Images and parameters of views of every kind, at random, and both ways of making the views."""

import numpy as np
import torch

from shared.distillation.views import DeviceView, ViewMaker
from shared.transfer_set.views import ViewParameters, apply_views

KINDS = ("crop", "flip", "shift", "tone", "cutout")


def random_images(rng: np.random.Generator, images: int, size: tuple[int, int], channels: int) -> np.ndarray:
    return rng.integers(0, 256, (images, *size, channels), dtype=np.uint8)


def random_views(
    rng: np.random.Generator, images: int, size: tuple[int, int], kinds: tuple[str, ...] = KINDS
) -> ViewParameters:
    """Return parameters that go to the ends of what can be stored."""
    parameters = ViewParameters.as_is((images,), size)
    if "crop" in kinds:
        length = rng.integers(1, size, (images, 2), endpoint=True)
        parameters.crop[:] = np.concatenate([rng.integers(0, size - length, endpoint=True), length], axis=1)
    if "flip" in kinds:
        parameters.flip[:] = rng.integers(0, 2, images)
    if "shift" in kinds:
        parameters.shift[:] = rng.integers(-4, 5, (images, 2))
    if "tone" in kinds:
        parameters.tone[:] = rng.integers(0, 512, (images, 2))
    if "cutout" in kinds:
        parameters.cutout[:] = rng.integers(0, max(size), (images, 4), endpoint=True)
    return parameters


def both_ways(
    rng: np.random.Generator, size: tuple[int, int], channels: int, kinds: tuple[str, ...], device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return views of two nets' batches made by numpy and on the device; nets x batch x H x W x C."""
    images = random_images(rng, 12, size, channels)
    parameters = random_views(rng, 12, size, kinds)
    rows = rng.integers(0, 12, (2, 20))
    by_numpy = apply_views(images[rows.ravel()], parameters.take(rows.ravel())).reshape(
        2, 20, *size, channels
    )
    place = torch.device(device)
    maker = ViewMaker(torch.from_numpy(images), reach=int(abs(parameters.shift).max()), device=place)
    on_device = torch.from_numpy(rows).to(place)
    made = maker.make(on_device, DeviceView.of(parameters, size, place).at(on_device))
    return torch.from_numpy(by_numpy), made
