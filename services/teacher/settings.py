"""What the teacher service reads from the environment, once, at start. README.md has the table."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from shared.settings import CommonSettings


class TeacherSettings(CommonSettings):
    """`TEACHER_…`, beside what all services share. Rows are images; sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="TEACHER_")

    host: str = "127.0.0.1"
    port: int = Field(default=8081, ge=0, le=65_535)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where teachers answer; `auto` is CUDA where there is one."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of a forward pass; left out, PyTorch decides."""
    decode_threads: int = Field(default=2, ge=1, le=64)
    """Requests whose images are read, or whose answers are written, side by side."""
    max_batch_rows: int = Field(default=1024, ge=1)
    """Most rows of one forward pass, however fast it is; larger requests are split."""
    interactive_rows: int = Field(default=16, ge=0)
    """Requests of more rows wait in the bulk lane, unless their X-Lane says otherwise."""
    bulk_ms: float = Field(default=200.0, gt=0, le=60_000)
    """Longest forward pass: within it, as many rows as get most done a second."""
    bulk_beside_ms: float = Field(default=3.0, gt=0, le=60_000)
    """The same of bulk within 5 s of an interactive request; or one row, where that takes longer."""
    company_ms: float = Field(default=0.0, ge=0, le=1000)
    """How long a request waits, while the device is free, for others to share its forward pass."""
    max_rows: int = Field(default=8192, ge=1)
    """Most rows of one request."""
    queue_rows: int = Field(default=8192, ge=1)
    """Most rows that wait in a lane; a request that finds no room is refused with 503."""
    max_held: int = Field(default=4, ge=1)
    """Teachers kept in memory; the one that was asked least recently makes room."""
    oip_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """For one answer of a server that a teacher is behind."""
    oip_probe_s: float = Field(default=60.0, ge=0, le=86_400)
    """How often such a server is compared, while it is asked, with what it said when it was added."""
    ledger_dir: Path | None = None
    """Where it is noted what keys have taken from their budgets; left out, `teacher-ledger` in the state
    directory."""
    max_body_bytes: int = Field(default=64 * 2**20, ge=1)
    max_bodies_bytes: int = Field(default=2**29, ge=1)
    """Of all bodies together that are in memory; more are refused with 503."""
    max_image_bytes: int = Field(default=10_000_000, ge=1)
    max_image_pixels: int = Field(default=25_000_000, ge=1)
    """Width times height, as the header says, before anything is decoded."""
    drain_s: int = Field(default=30, ge=0, le=3600)
    """How long requests in flight may take after SIGTERM."""

    @property
    def ledger_path(self) -> Path:
        """Where the ledger lies."""
        return self.ledger_dir or self.state_dir / "teacher-ledger"

    @model_validator(mode="after")
    def _a_request_fits(self) -> Self:
        if self.max_rows > self.queue_rows:
            raise ValueError(
                f"TEACHER_MAX_ROWS ({self.max_rows}) must not be above TEACHER_QUEUE_ROWS "
                f"({self.queue_rows}): such a request would never be taken"
            )
        if self.max_body_bytes > self.max_bodies_bytes:
            raise ValueError(
                f"TEACHER_MAX_BODY_BYTES ({self.max_body_bytes}) must not be above TEACHER_MAX_BODIES_BYTES "
                f"({self.max_bodies_bytes}): such a request would never be taken"
            )
        return self
