"""Nets of other libraries, built from their configuration or name, their weights drawn from a seed.

The libraries are optional extras: they are imported when such a net is asked for.
"""

import importlib
from types import ModuleType

import torch
from torch import nn

from shared.contracts.architectures import Timm, Transformers
from shared.contracts.images import ImageInput
from shared.contracts.transformers_configs import check_transformers_config
from shared.errors import ArchitectureInvalid, ExtraMissing


def build_foreign(
    architecture: Transformers | Timm, image: ImageInput, classes: int, *, seed: int
) -> nn.Module:
    """Return the net in float32, its weights drawn from the seed; torch's own random state is as before.

    Raises:
        ExtraMissing: the library cannot be imported here.
        ArchitectureInvalid: the library makes no net of it, or the configuration names what lies outside.
    """
    if isinstance(architecture, Transformers):
        # The contract has done so, too; here it is beside what would obey.
        check_transformers_config(architecture.config)
    library = imported(architecture.architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            if isinstance(architecture, Transformers):
                net = _of_transformers(library, architecture, image, classes)
            else:
                net = _of_timm(library, architecture, image, classes)
        except Exception as error:
            # A configuration may go wrong anywhere in the library; what it says is all there is to say.
            raise ArchitectureInvalid(
                architecture.architecture, f"{type(error).__name__}: {error}"
            ) from error
    return net.float()


def _of_transformers(
    library: ModuleType, architecture: Transformers, image: ImageInput, classes: int
) -> nn.Module:
    rest = dict(architecture.config)
    name = rest.pop("model_type", None)
    size: int | list[int] = [image.height, image.width]
    if image.height == image.width:
        size = image.height  # some families know no other
    of_dataset = {"image_size": size, "num_channels": image.channels, "num_labels": classes}
    config = library.AutoConfig.for_model(name, **{**rest, **of_dataset})
    net: nn.Module = library.AutoModelForImageClassification.from_config(config)
    return net


def _of_timm(library: ModuleType, architecture: Timm, image: ImageInput, classes: int) -> nn.Module:
    options = {"pretrained": False, "num_classes": classes, "in_chans": image.channels}
    net: nn.Module
    try:
        net = library.create_model(architecture.model, img_size=(image.height, image.width), **options)
    except TypeError:  # nets that take images of any size know no `img_size`
        net = library.create_model(architecture.model, **options)
    return net


def imported(name: str) -> ModuleType:
    """Return a library of an optional extra.

    Raises:
        ExtraMissing: it cannot be imported here.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        # timm needs torchvision, which raises RuntimeError where its operators do not fit this torch.
        raise ExtraMissing(name, f"{type(error).__name__}: {error}") from error
