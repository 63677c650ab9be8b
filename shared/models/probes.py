"""What a model said about a few images when it was added: it stands for weights that cannot be seen.

`probe.safetensors` holds `images` (uint8 8 x H x W x C: black, white, grey, a ramp, noise of a fixed seed)
and the `logits` (float32 8 x classes) that they were given. No torch here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.tensors import read_tensors, tensors_to_bytes
from shared.contracts.images import ImageInput
from shared.contracts.teachers import Answers
from shared.errors import Corrupt, TeacherAnswerInvalid

PROBE: Final = "probe.safetensors"
PROBE_IMAGES: Final = 8

TOLERANCE: Final = 5e-3
"""Of a logit, as a share of the spread of the logits: a server that computes in float16, in another order for
another batch, stays below it; other weights, and as a rule a quantised copy of the same, do not."""
_LEAST_SPREAD: Final = 0.1
_LEAST_LOG_PROBABILITY: Final = -14.0
"""Where a server answers probabilities, smaller ones are rounding: exp(-14) is about one in a million."""


@dataclass(frozen=True)
class Probe:
    """Images, and what they were answered."""

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]

    def difference(self, logits: NDArray[np.float32], answers: Answers) -> float:
        """Return how far an answer lies from the one of the probe: 1 is as far as rounding explains.

        Logits are compared without their mean, which no softmax sees.
        """
        if logits.shape != self.logits.shape or not np.isfinite(logits).all():
            return float("inf")
        found, expected = _comparable(logits, answers), _comparable(self.logits, answers)
        spread = max(_LEAST_SPREAD, float(np.ptp(expected, axis=-1).max()))
        return float(np.abs(found - expected).max() / (TOLERANCE * spread))


def probe_images(size: ImageInput) -> NDArray[np.uint8]:
    """Return the images of a probe, 8 x H x W x C."""
    shape = (size.height, size.width, size.channels)
    ramp = np.linspace(0, 255, size.values).astype(np.uint8).reshape(shape)
    plain = [np.full(shape, level, np.uint8) for level in (0, 255, 128)]
    noise = np.random.default_rng(0).integers(0, 256, (PROBE_IMAGES - 4, *shape), dtype=np.uint8)
    return np.stack([*plain, ramp, *noise])


def make_probe(ask: Callable[[NDArray[np.uint8]], NDArray[np.float32]], size: ImageInput) -> bytes:
    """Return the content of `probe.safetensors` for a model that is being added.

    It is asked twice, about all images together and about each alone, and must say the same.

    Args:
        ask: gives logits at T = 1, float32 N x classes, for uint8 N x H x W x C.
        size: of the images that the teacher takes.

    Raises:
        TeacherAnswerInvalid: its logits are not finite, or change from one time to the next.
    """
    images = probe_images(size)
    logits = ask(images)
    if not np.isfinite(logits).all():
        rows = ", ".join(map(str, np.flatnonzero(~np.isfinite(logits).all(-1))))
        raise TeacherAnswerInvalid(f"its logits about plain images and noise are not finite: images {rows}")
    again = np.concatenate([ask(image[None]) for image in images])
    # As probabilities or as logits: rounding is alike, and the looser of the two is meant here.
    difference = Probe(images, logits).difference(again, "probabilities")
    if difference > 1:
        raise TeacherAnswerInvalid(
            "its logits about the same images differ from one call to the next, "
            f"{difference:.3g} times as much as rounding explains: no target made of them could be trusted",
            remedy="Switch off what is random in the model, such as dropout, and what depends on the batch.",
        )
    return tensors_to_bytes({"images": images, "logits": logits.astype(np.float32)})


def read_probe(path: Path) -> Probe:
    """Return a stored probe. Whoever calls has compared its digest before.

    Raises:
        Corrupt: it is none.
    """
    tensors, _ = read_tensors(path)
    images, logits = tensors.get("images"), tensors.get("logits")
    if images is None or images.dtype != np.uint8 or images.ndim != 4:
        raise Corrupt(str(path))
    if logits is None or logits.dtype != np.float32 or logits.shape[:1] != images.shape[:1]:
        raise Corrupt(str(path))
    return Probe(images, logits)


def _comparable(logits: NDArray[np.float32], answers: Answers) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    if answers == "logits":
        return np.asarray(wide - wide.mean(-1, keepdims=True))
    highest = wide.max(-1, keepdims=True)
    log_p = wide - highest - np.log(np.exp(wide - highest).sum(-1, keepdims=True))
    return np.asarray(np.maximum(log_p, _LEAST_LOG_PROBABILITY))
