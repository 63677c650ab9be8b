"""What a model takes in: the size of its images and how pixels become numbers."""

from typing import Literal

from pydantic import Field, model_validator

from shared.contracts.base import Contract


class ImageInput(Contract):
    """The images a model takes: uint8, height x width x channels (1 is grey, 3 is RGB)."""

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: int = Field(ge=1, le=4)

    @property
    def values(self) -> int:
        """Numbers in one image."""
        return self.height * self.width * self.channels


class Preprocessing(Contract):
    """How uint8 pixels become what the net sees: (pixel / 255 - mean) / std, a mean and std a channel.

    An image of another size than `input` is converted to the channels and resized (bilinear, antialiased)
    before it is asked about. Where the net itself wants another size, as one made for 224 pixels does that is
    asked about images of 32, the images are brought to `net` as part of the model, so that teacher and
    student speak of the same pixels.
    """

    input: ImageInput
    mean: tuple[float, ...]
    std: tuple[float, ...]
    net: ImageInput | None = None
    """What the net sees where that is not `input`: resized as `resample` says; one channel becomes three
    alike."""
    resample: Literal["bilinear", "bicubic"] = "bilinear"

    @property
    def seen(self) -> ImageInput:
        """What the net sees."""
        return self.net or self.input

    @model_validator(mode="after")
    def _fits_channels(self) -> "Preprocessing":
        channels = self.seen.channels
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(
                f"mean and std must have a number for each of {channels} channels, got {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if any(not value > 0 for value in self.std):
            raise ValueError(f"std must be above 0, got {self.std}")
        if self.net is not None and (self.input.channels, channels) not in {(1, 3), (channels, channels)}:
            raise ValueError(f"{self.input.channels} channels cannot become {channels}")
        return self
