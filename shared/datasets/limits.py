"""What an upload may cost. All of it is checked while reading, whatever the upload says of itself."""

from pydantic import Field

from shared.contracts.base import Contract
from shared.datasets.images import ImageLimits


class UploadLimits(Contract):
    """Limits of one upload; bytes are those after unpacking."""

    images: ImageLimits = ImageLimits()
    """Of each image."""
    members: int = Field(default=100_000, ge=1)
    """Files in an archive, rows in Parquet, images in idx files."""
    unpacked_bytes: int = Field(default=2 << 30, ge=1)
    """All files of an archive, or all pages of Parquet, together."""
    ratio: int = Field(default=100, ge=1)
    """Largest quotient of unpacked and packed size in an archive; images hardly shrink at all."""
    decoded_bytes: int = Field(default=4 << 30, ge=1)
    """Pixels of all images as they are stored."""
