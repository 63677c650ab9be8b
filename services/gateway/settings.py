"""What the gateway reads from the environment, once, at start. README.md has the table."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from shared.settings import CommonSettings


class GatewaySettings(CommonSettings):
    """`GATEWAY_…`, beside what all services share. Sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    processes: int = Field(default=1, ge=1, le=64)
    """Processes that share the port; each holds the live student."""
    threads: int = Field(default=1, ge=1, le=64)
    """Threads of ONNX Runtime for one call."""
    decode_threads: int = Field(default=2, ge=1, le=64)
    """Large requests that are decoded and answered side by side, off the event loop."""
    max_waiting: int = Field(default=64, ge=1, le=10_000)
    """Large requests that may wait for one of these threads; more are refused with 503."""
    max_queued: int = Field(default=1024, ge=1, le=1_000_000)
    """Images of small requests that may wait for the student; more are refused with 503."""
    max_image_bytes: int = Field(default=10 * 2**20, ge=1)
    max_image_pixels: int = Field(default=25_000_000, ge=1)
    """Width times height, as the header says, before anything is decoded."""
    max_images: int = Field(default=64, ge=1, le=10_000)
    """In one request for predictions."""
    max_prediction_bytes: int = Field(default=32 * 2**20, ge=1)
    """Of one request for predictions, all its images together."""
    max_body_bytes: int = Field(default=2**20, ge=1)
    """Of every other request but uploads."""
    max_bodies_bytes: int = Field(default=2**29, ge=1)
    """Of all bodies but uploads together that one process has in memory; more are refused with 503."""
    max_dataset_bytes: int = Field(default=2**30, ge=1)
    """Of one upload of a dataset."""
    max_teacher_bytes: int = Field(default=2**32, ge=1)
    """Of one upload of a teacher: all its files together."""
    max_uploads: int = Field(default=2, ge=1, le=64)
    """Datasets and teachers that one process takes in at a time; more are refused with 503."""
    max_loaded: int = Field(default=4, ge=1, le=1000)
    """Versions in the memory of one process, beside the live one and those that the traffic policy names."""
    promotion_poll_s: float = Field(default=0.2, gt=0, le=60, allow_inf_nan=False)
    """How often a process looks whether another student was promoted."""
    drain_s: int = Field(default=30, ge=0, le=3_600)
    """How long requests in flight may take after SIGTERM."""
    access_log: bool = False
    """Whether a line of JSON is written for each request."""

    @model_validator(mode="after")
    def _a_body_fits_among_all(self) -> Self:
        largest = max(self.max_prediction_bytes, self.max_body_bytes)
        if largest > self.max_bodies_bytes:
            raise ValueError(
                f"GATEWAY_MAX_PREDICTION_BYTES and GATEWAY_MAX_BODY_BYTES ({largest}) must not be above "
                f"GATEWAY_MAX_BODIES_BYTES ({self.max_bodies_bytes}): such a request would never be taken"
            )
        return self
