"""Which of a model's tensors takes the images and which answers, as the model itself says. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import ValidationError

from shared.contracts.images import ImageInput
from shared.contracts.teachers import Layout
from shared.errors import ModelUnfit

Datatype = Literal["float32", "float16", "uint8"]

INPUT_TYPES: Final[tuple[Datatype, ...]] = ("float32", "float16", "uint8")
OUTPUT_TYPES: Final = ("float32", "float16", "float64", "bfloat16")
_CHANNELS: Final = (1, 3, 4)
_MOST_CHANNELS: Final = 4


@dataclass(frozen=True)
class TensorFacts:
    """A tensor by its name, numpy's word for its type, and its shape; None is a length that may vary."""

    name: str
    datatype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        lengths = " x ".join("?" if length is None else str(length) for length in self.shape)
        return f"{self.name!r} ({self.datatype}, {lengths or 'a single number'})"


@dataclass(frozen=True)
class ImageTensor:
    """The tensor that takes the images."""

    name: str
    datatype: Datatype
    layout: Layout
    rows: int | None
    """Images a call, where the model fixes it."""
    channels: int
    height: int | None
    width: int | None

    @property
    def image(self) -> ImageInput | None:
        """What the model sees; None where it takes images of any size."""
        if self.height is None or self.width is None:
            return None
        return image_seen(self.height, self.width, self.channels)


def image_seen(height: int, width: int, channels: int) -> ImageInput:
    """Return the images that a model says it takes.

    Raises:
        ModelUnfit: there are none of that size.
    """
    try:
        return ImageInput(height=height, width=width, channels=channels)
    except ValidationError as error:
        raise ModelUnfit(
            f"the model takes images of {height} x {width} x {channels}: rows and columns may be 1 to 4096, "
            "channels 1 to 4"
        ) from error


def image_tensor(inputs: Sequence[TensorFacts], layout: Layout | None = None) -> ImageTensor:
    """Return the one input as a tensor of images.

    Args:
        inputs: of the model.
        layout: as its owner says; None where the shape is to tell.

    Raises:
        ModelUnfit: there is not exactly one input, it takes no images, or its channels are not fixed.
    """
    if len(inputs) != 1:
        raise ModelUnfit(
            f"a teacher takes one tensor of images, this model takes {len(inputs)}: "
            f"{', '.join(map(str, inputs)) or 'none'}"
        )
    (found,) = inputs
    if found.datatype not in INPUT_TYPES:
        raise ModelUnfit(f"the input {found} is not of {', '.join(INPUT_TYPES)}")
    if len(found.shape) != 4:
        raise ModelUnfit(
            f"the input {found} is no batch of images: it has {len(found.shape)} dimensions, not 4"
        )
    chosen = layout or _layout_of(found)
    rows, *image = found.shape
    channels = image[0] if chosen == "NCHW" else image[2]
    height, width = image[1:] if chosen == "NCHW" else image[:2]
    if channels is None or not 1 <= channels <= _MOST_CHANNELS:
        counted = "channels of no fixed number" if channels is None else f"{channels} channels"
        raise ModelUnfit(f"the input {found} has, read as {chosen}, {counted}: images have 1 to 4")
    return ImageTensor(
        name=found.name,
        datatype=found.datatype,
        layout=chosen,
        rows=rows,
        channels=channels,
        height=height,
        width=width,
    )


def answering_tensor(outputs: Sequence[TensorFacts], wanted: str | None = None) -> TensorFacts:
    """Return the output that answers.

    Args:
        outputs: of the model.
        wanted: its name; None where there is one only.

    Raises:
        ModelUnfit: there is none of this name, there are several and none is named, or what it gives is no
            number a class.
    """
    listed = ", ".join(map(str, outputs)) or "none"
    if wanted is None and len(outputs) != 1:
        raise ModelUnfit(
            f"the model has {len(outputs)} outputs: {listed}",
            remedy="Name the one that answers in `output`." if outputs else None,
        )
    found = next((output for output in outputs if wanted in (None, output.name)), None)
    if found is None:
        raise ModelUnfit(f"the model has no output {wanted!r}; it has {listed}")
    flat = len(found.shape) >= 2 and all(length in (1, None) for length in found.shape[2:])
    if not flat or found.datatype not in OUTPUT_TYPES:
        raise ModelUnfit(f"the output {found} is not a number a class for each image")
    return found


def _layout_of(found: TensorFacts) -> Layout:
    """Return the layout that the lengths tell: channels are 1, 3 or 4, rows and columns seldom are."""
    first, last = found.shape[1] in _CHANNELS, found.shape[3] in _CHANNELS
    return "NHWC" if last and not first else "NCHW"
