"""The worker's settings, read once from the environment."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import SettingsConfigDict

from shared.settings import CommonSettings

_SIZE = re.compile(r"^(\d+)([bkmg]?)$", re.IGNORECASE)
_SHIFTS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30}


def _bytes(value: object) -> object:
    """Return a size written as Docker writes it in bytes; what is none is left to the type."""
    found = _SIZE.match(value) if isinstance(value, str) else None
    return value if found is None else int(found[1]) << _SHIFTS[found[2].lower()]


class WorkerSettings(CommonSettings):
    """Variables start with `WORKER_`; times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="WORKER_")

    concurrency: int = Field(default=1, ge=1, le=64)
    """Jobs that run at the same time, each in a training process of its own."""
    lease_s: float = Field(default=15.0, ge=0.5, le=3600)
    """A job whose worker is not heard of for this long goes to another; renewed every third of it."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Deaths of the training process or its worker after which a job fails."""
    cancel_poll_s: float = Field(default=1.0, ge=0.05, le=60)
    """How often a running job asks whether it was cancelled."""
    cancel_grace_s: float = Field(default=3.0, ge=0, le=600)
    """From SIGTERM to SIGKILL of a cancelled training process."""
    shutdown_grace_s: float = Field(default=20.0, ge=0, le=600)
    """The same when the worker stops: time for a checkpoint."""
    reconcile_s: float = Field(default=1.0, ge=0.05, le=60)
    """How often jobs without a message or with a lapsed lease are looked for."""
    health_host: str = "127.0.0.1"
    health_port: int = Field(default=8082, ge=0, le=65_535)
    """Of `/health/live`, `/health/ready` and `/metrics`; 0 takes any free port and logs it."""
    heartbeat_file: Path | None = None
    """Touched each second while the worker is ready; left out, `worker.heartbeat` in the state directory."""
    checkpoint_s: float = Field(default=10.0, ge=0, le=3600)
    """Least time between two checkpoints of a training, at any step; 0 writes one after every epoch."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of a training process; left out, PyTorch decides."""
    memory_limit: Annotated[int | None, BeforeValidator(_bytes)] = Field(default=None, ge=1 << 24)
    """What a training process may hold, in bytes or as `3500m` or `4g`; beyond it the job fails.

    Files that it has mapped do not count. Left out, the machine or the container is the limit.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where nets are trained; `auto` is CUDA where there is one."""
    deterministic: bool = False
    """Let PyTorch choose operations on CUDA that give the same bits each time; slower."""
    training_module: str = Field(
        default="services.worker.training_process", pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
    )
    """The Python module that runs a job in the training process; it speaks `services.worker.protocol`."""

    @property
    def heartbeat_path(self) -> Path:
        """Where the heartbeat file lies."""
        return self.heartbeat_file or self.state_dir / "worker.heartbeat"

    @property
    def heartbeat_s(self) -> float:
        """How often the lease is renewed."""
        return self.lease_s / 3
