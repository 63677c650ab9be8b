"""Messages of the Open Inference Protocol v2 over REST, for those who ask and those who answer.

Both sides may say more than is written here; what is not known is passed over, as the protocol has it.
Source: https://github.com/kserve/open-inference-protocol, inference_rest.md; the extensions
`binary_tensor_data` and `classification` as Triton describes them.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class OipMessage(BaseModel):
    """A message of the protocol, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


# --- what servers say of themselves ------------------------------------------------------------------------


class ServerMetadata(OipMessage):
    """`GET /v2`."""

    name: str = ""
    version: str = ""
    extensions: tuple[str, ...] = ()


class ServerLive(OipMessage):
    """`GET /v2/health/live`."""

    live: bool = True


class ServerReady(OipMessage):
    """`GET /v2/health/ready`."""

    ready: bool


class ModelReady(OipMessage):
    """`GET /v2/models/{name}/ready`."""

    name: str
    ready: bool = True


class TensorMetadata(OipMessage):
    """A tensor of a model; -1 is a length that may vary."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Any] | None = None
    """`optional`: an input that need not be given."""


class ModelMetadata(OipMessage):
    """`GET /v2/models/{name}`."""

    name: str
    versions: tuple[str, ...] | None = None
    platform: str = ""
    inputs: tuple[TensorMetadata, ...] | None = None
    outputs: tuple[TensorMetadata, ...] | None = None
    parameters: dict[str, Any] | None = None


class ModelConfiguration(OipMessage):
    """`GET /v2/models/{name}/config`, which Triton has."""

    max_batch_size: int = 0
    """0 where the model itself says how many rows it takes."""


# --- inference ---------------------------------------------------------------------------------------------


class RequestInput(OipMessage):
    """A tensor that is sent: its `data` here, or `binary_data_size` of its parameters behind the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = Field(default=None, description="Flat in row-major order, or nested")
    parameters: dict[str, Any] | None = Field(default=None, description="`binary_data_size`: bytes")


class RequestOutput(OipMessage):
    """A tensor that is wanted."""

    name: str
    parameters: dict[str, Any] | None = Field(
        default=None,
        description="`binary_data`: behind the JSON; `classification`: the most probable classes, so many",
    )


class InferenceRequest(OipMessage):
    """`POST /v2/models/{name}/infer`; with the binary extension, the part of the body that is JSON."""

    inputs: tuple[RequestInput, ...]
    outputs: tuple[RequestOutput, ...] | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = Field(
        default=None,
        description="`binary_data_output`: all outputs behind the JSON; `timeout`: microseconds",
    )


class ResponseOutput(OipMessage):
    """A tensor that was asked for; its `data` here, or `binary_data_size` bytes behind the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class InferenceResponse(OipMessage):
    """The answer of `POST /v2/models/{name}/infer`."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: tuple[ResponseOutput, ...]


class InferenceError(OipMessage):
    """The form of every refusal. The protocol has `error`; `code` is ours, stable, as of a `Problem`."""

    error: str
    code: str = ""
    request_id: str = ""
