"""Which configurations are handed to Hugging Face `transformers`: a user writes them, and the library obeys.

Some of its families fetch from a hub what a field names, or open any file of the machine as a pickle
(`timm_wrapper` with `hf-hub:` or `checkpoint_path`); some fields name code, or kernels to be downloaded. What
is listed here was read in transformers 5.23.0: its table for `AutoModelForImageClassification`, less the
families that build their net out of another one that a configuration names: `timm_wrapper`, `shieldgemma2`.
"""

from collections.abc import Mapping
from typing import Any, Final

from shared.errors import ArchitectureInvalid

IMAGE_CLASSIFIERS: Final = frozenset(
    {
        "beit", "bit", "clip", "convnext", "convnextv2", "cvt", "data2vec-vision", "deit", "dinat",
        "dinov2", "dinov2_with_registers", "donut-swin", "efficientnet", "focalnet", "hgnet_v2",
        "hiera", "ijepa", "imagegpt", "levit", "metaclip_2", "mobilenet_v1", "mobilenet_v2",
        "mobilevit", "mobilevitv2", "perceiver", "poolformer", "pp_lcnet", "pvt", "pvt_v2",
        "regnet", "resnet", "segformer", "siglip", "siglip2", "swiftformer", "swin", "swinv2",
        "textnet", "vit", "vit_msn",
    }
)  # fmt: skip
"""Values of `model_type`. None of these reads another file or builds another family inside."""

LEADS_OUT: Final = frozenset(
    {
        "auto_map",
        "model_args",
        "quantization_config",
        "attn_implementation",
        "attn_implementation_internal",
        "experts_implementation",
        "experts_implementation_internal",
    }
)
"""Fields that name code, kernels of a hub or arguments of another library, also with `_` before them."""


def check_transformers_config(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that could make the library fetch, open or run what the configuration names.

    Args:
        config: as in `config.json`; fields are looked for at any depth.

    Raises:
        ArchitectureInvalid: `model_type` is not of `IMAGE_CLASSIFIERS`, or a field of `LEADS_OUT` is there.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in IMAGE_CLASSIFIERS:
        raise ArchitectureInvalid(
            "transformers",
            f"`model_type` is {str(family)[:100]!r}, and must be one of "
            f"{', '.join(sorted(IMAGE_CLASSIFIERS))}",
        )
    inside: list[Any] = [config]  # and no recursion: how deep it is, is the sender's choice
    while inside:
        value = inside.pop()
        if isinstance(value, Mapping):
            for name in value:
                if str(name).strip("_") in LEADS_OUT:
                    raise ArchitectureInvalid(
                        "transformers",
                        f"the configuration has a field {str(name)!r}, which can name code or files outside "
                        "of it; leave it out",
                    )
            inside.extend(value.values())
        elif isinstance(value, list | tuple):
            inside.extend(value)
