"""Settings that all services share, and how a wrong one is told: one line each, before anything starts."""

import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.adapters.oip_hosts import AllowedHosts


def _hosts(value: object) -> object:
    return AllowedHosts.of(value) if isinstance(value, str) else value


def _read_key(path: Path) -> str:
    """Return the key that a file holds; ValueError, which never has the key in it, where it holds none."""
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise ValueError(f"the file cannot be read: {reason}") from None
    if not key or not key.isprintable() or " " in key:
        raise ValueError("the file must hold one key, on one line")
    return key


class CommonSettings(BaseSettings):
    """What every process reads from the environment. Each service adds its own under its prefix."""

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, extra="ignore", populate_by_name=True
    )

    state_dir: Path = Field(default=Path(".imago"), validation_alias="IMAGO_STATE_DIR")
    """Where everything that must outlive a process is kept; the artefact store is its folder `store`."""
    data_dir: Path | None = Field(default=None, validation_alias="IMAGO_DATA_DIR")
    """Where built-in datasets look for their files, such as `mnist/train-images-idx3-ubyte.gz`."""
    transfer_sets_url: str | None = Field(
        default=None, validation_alias="IMAGO_TRANSFER_SETS_URL", pattern=r"^[a-z][a-z0-9+.-]*://.+"
    )
    """Where transfer sets are kept, such as `s3://bucket/folder`; without one, in the artefact store."""
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0", validation_alias="REDIS_URL", pattern=r"^(rediss?|unix)://.+"
    )
    redis_url_file: Path | None = Field(default=None, validation_alias="REDIS_URL_FILE")
    """A file with `redis_url`, which holds a password."""
    teacher_url: str = Field(
        default="http://127.0.0.1:8081",
        validation_alias="TEACHER_URL",
        pattern=r"^https?://[^\s,]+(\s*,\s*https?://[^\s,]+)*$",
    )
    """Replicas of the teacher service: one address or several, by commas; a name may stand for several."""
    teacher_key_file: Path | None = Field(default=None, validation_alias="TEACHER_KEY_FILE")
    """A file with the key that the teacher service is asked with."""
    oip_hosts: Annotated[AllowedHosts, NoDecode, BeforeValidator(_hosts)] = Field(
        default=AllowedHosts(), validation_alias="TEACHER_OIP_HOSTS"
    )
    """Servers of the Open Inference Protocol that may be asked for teachers: host or host:port, by commas."""
    auth: Literal["keys", "off"] = Field(default="off", validation_alias="IMAGO_AUTH")
    """Whether requests need a key. Where they need none, a service listens on loopback addresses alone."""
    admin_key_file: Path | None = Field(default=None, validation_alias="IMAGO_ADMIN_KEY_FILE")
    """A file with one more key, which allows everything: the first one, to make others with."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", validation_alias="LOG_LEVEL"
    )

    @model_validator(mode="before")
    @classmethod
    def _redis_url_of_file(cls, given: dict[str, Any]) -> dict[str, Any]:
        file = given.get("REDIS_URL_FILE", given.get("redis_url_file"))
        if file is None:
            return given
        if given.keys() & {"REDIS_URL", "redis_url"}:
            raise ValueError("REDIS_URL and REDIS_URL_FILE are both set; one of them is enough")
        try:
            return given | {"REDIS_URL": Path(file).read_text(encoding="ascii").strip()}
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
            raise ValueError(f"REDIS_URL_FILE: {file} cannot be read: {reason}") from None

    @field_validator("teacher_key_file")
    @classmethod
    def _is_there(cls, path: Path | None) -> Path | None:
        if path is not None:
            _read_key(path)
        return path

    @property
    def teacher_key(self) -> str | None:
        """The key that the teacher service is asked with, as its file has it; None where none is named."""
        return None if self.teacher_key_file is None else _read_key(self.teacher_key_file)

    @property
    def store_dir(self) -> Path:
        """Root of the artefact store."""
        return self.state_dir / "store"

    @property
    def transfer_sets_place(self) -> str:
        """Where transfer sets are kept: the URL that was given, or the folder of the artefact store."""
        return self.transfer_sets_url or str(self.store_dir / "transfer_sets")

    @property
    def transfer_sets_cache(self) -> Path:
        """The folder of this machine for copies of what lies elsewhere."""
        return self.state_dir / "cache" / "transfer_sets"


_SECRET: Final = frozenset({"REDIS_URL"})
"""Variables whose values are not repeated."""

SettingsT = TypeVar("SettingsT", bound=CommonSettings)


def load(settings: type[SettingsT]) -> SettingsT:
    """Read the settings from the environment; say what is wrong with each and exit with 2."""
    try:
        return settings()
    except ValidationError as error:
        prefix = settings.model_config.get("env_prefix", "")
        for problem in error.errors(include_url=False):
            field = ".".join(map(str, problem["loc"]))
            variable = field if field.isupper() else f"{prefix}{field}".upper()
            if not field:  # about several, and the input is all of them
                sys.stderr.write(f"{problem['msg'].removeprefix('Value error, ')}\n")
            elif variable in _SECRET:
                sys.stderr.write(f"{variable}: {problem['msg']}\n")
            else:
                sys.stderr.write(f"{variable}: {problem['msg']}, got {problem.get('input')!r}\n")
        raise SystemExit(2) from None
