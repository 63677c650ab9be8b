"""The networks that a job may name, as plain values; `shared.models` builds them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from shared.contracts.base import Contract, refuse
from shared.errors import UnknownArchitecture

ARCHITECTURES: tuple[str, ...] = ("mlp",)


class Mlp(Contract):
    """A perceptron with ReLU hidden layers; `hidden_units: [800, 800]` on MNIST is 784-800-800-10."""

    architecture: Literal["mlp"] = "mlp"
    hidden_units: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        default=(800, 800), min_length=1, max_length=16
    )


def _known(value: Any) -> Any:
    if isinstance(value, dict) and "architecture" in value and value["architecture"] not in ARCHITECTURES:
        raise refuse(UnknownArchitecture(value["architecture"], ARCHITECTURES))
    return value


Architecture = Annotated[Mlp, BeforeValidator(_known)]
"""One of the registered architectures, told apart by its field `architecture`."""
