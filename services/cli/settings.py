"""The command line's settings: where the stack listens and where its state is."""

from pathlib import Path

from pydantic import Field, SecretStr

from shared.settings import CommonSettings

DEFAULT_GATEWAY_URL = "http://127.0.0.1:8080"


class CliSettings(CommonSettings):
    """The variables that `imago up` and `imago demo` read; the services read the rest themselves."""

    key: SecretStr | None = Field(default=None, validation_alias="IMAGO_KEY")
    """The API key that commands send, where the gateway asks for one."""
    gateway_host: str = Field(default="127.0.0.1", validation_alias="GATEWAY_HOST")
    gateway_port: int = Field(default=8080, ge=1, le=65_535, validation_alias="GATEWAY_PORT")
    teacher_host: str = Field(default="127.0.0.1", validation_alias="TEACHER_HOST")
    teacher_port: int = Field(default=8081, ge=1, le=65_535, validation_alias="TEACHER_PORT")
    worker_health_host: str = Field(default="127.0.0.1", validation_alias="WORKER_HEALTH_HOST")
    worker_health_port: int = Field(default=8082, ge=1, le=65_535, validation_alias="WORKER_HEALTH_PORT")

    @property
    def api_key(self) -> str | None:
        """The key itself, without the line end that a file brings."""
        return None if self.key is None else self.key.get_secret_value().strip()

    @property
    def own_redis_url(self) -> str | None:
        """REDIS_URL where it is set; without it the stack starts a Redis of its own."""
        return self.redis_url if "redis_url" in self.model_fields_set else None

    @property
    def absolute_state_dir(self) -> Path:
        """The state directory as the children get it, whatever their working directory."""
        return self.state_dir.expanduser().resolve()
