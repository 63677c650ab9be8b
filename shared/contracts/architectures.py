"""The networks that a job may name, as plain values; `shared.models` builds them."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, JsonValue, field_validator

from shared.contracts.base import Contract, refuse
from shared.contracts.transformers_configs import check_transformers_config
from shared.errors import ArchitectureInvalid, UnknownArchitecture

ResNetName = Literal[
    "resnet8",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet8x4",
    "resnet32x4",
]

ARCHITECTURES: Final[tuple[str, ...]] = (
    "mlp",
    "cnn",
    *ResNetName.__args__,  # type: ignore[attr-defined]
    "transformers",
    "timm",
)

Units = Annotated[int, Field(ge=1, le=65_536)]


class Mlp(Contract):
    """A perceptron with ReLU hidden layers; `hidden_units: [800, 800]` on MNIST is 784-800-800-10."""

    architecture: Literal["mlp"] = "mlp"
    hidden_units: tuple[Units, ...] = Field(default=(800, 800), min_length=1, max_length=16)


class Cnn(Contract):
    """A small convolutional net: 3 x 3 convolution, ReLU and 2 x 2 max-pooling a block, a hidden layer."""

    architecture: Literal["cnn"] = "cnn"
    channels: tuple[Units, ...] = Field(default=(32, 64), min_length=1, max_length=6)
    """Of each block."""
    hidden_units: Units = 128


class ResNet(Contract):
    """A residual net for 32 pixels (He et al. 2015, arXiv:1512.03385, section 4.2), by the field's names.

    `resnet20` has widths 16, 32, 64; `resnet8x4` and `resnet32x4` start at 32 channels and have widths 64,
    128, 256, as in the CIFAR-100 tables of knowledge distillation.
    """

    architecture: ResNetName = "resnet20"


class Transformers(Contract):
    """An image classifier of Hugging Face `transformers` by its configuration, weights from the seed.

    Needs the extra `transformers`. Image size, channels and classes are the dataset's.
    """

    architecture: Literal["transformers"] = "transformers"
    config: dict[str, JsonValue]
    """As in `config.json`; `model_type` names the family, such as `vit`."""

    @field_validator("config")
    @classmethod
    def _stays_inside(cls, config: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            check_transformers_config(config)
        except ArchitectureInvalid as error:
            raise refuse(error) from error
        return config


class Timm(Contract):
    """A net of `timm` by its name, weights from the seed. Needs the extra `timm`."""

    architecture: Literal["timm"] = "timm"
    model: str = Field(pattern=r"^[a-z0-9_.]{1,100}$")


def _known(value: Any) -> Any:
    if isinstance(value, dict) and "architecture" in value and value["architecture"] not in ARCHITECTURES:
        raise refuse(UnknownArchitecture(value["architecture"], ARCHITECTURES))
    return value


Architecture = Annotated[
    Mlp | Cnn | ResNet | Transformers | Timm, Field(discriminator="architecture"), BeforeValidator(_known)
]
"""One of the registered architectures, told apart by its field `architecture`."""
