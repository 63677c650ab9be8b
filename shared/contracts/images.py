"""What a model takes in: the size of its images and how pixels become numbers."""

from pydantic import Field

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

    An image of another size is converted to the channels and resized (bilinear, antialiased) before that.
    """

    input: ImageInput
    mean: tuple[float, ...]
    std: tuple[float, ...]
