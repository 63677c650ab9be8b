"""What a configuration of `transformers` may say, wherever it comes in."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.contracts.architectures import Architecture, Transformers
from shared.contracts.images import ImageInput
from shared.contracts.transformers_configs import check_transformers_config
from shared.errors import ArchitectureInvalid
from shared.models import extras
from shared.models.extras import build_foreign

HOSTILE: dict[str, dict[str, Any]] = {
    "a name on a hub": {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/net"},
    "a pickle of the machine": {
        "model_type": "timm_wrapper", "architecture": "resnet18",
        "model_args": {"checkpoint_path": "/etc/passwd"},
    },
    "a family that builds another one inside": {"model_type": "shieldgemma2"},
    "no image classifier": {"model_type": "llama"},
    "no family": {},
    "a family that is no text": {"model_type": ["vit"]},
    "code of a stranger": {"model_type": "vit", "auto_map": {"AutoConfig": "evil--evil.Config"}},
    "arguments of another library": {"model_type": "vit", "model_args": {}},
    "weights packed by a library": {"model_type": "vit", "quantization_config": {"quant_method": "hqq"}},
    "a kernel of a hub": {"model_type": "vit", "attn_implementation": "evil/kernel"},
    "a kernel, by the inner name": {"model_type": "vit", "_attn_implementation_internal": "evil/kernel"},
    "a kernel, in a part": {"model_type": "clip", "vision_config": {"_attn_implementation": "evil/kernel"}},
    "a kernel, in a list": {"model_type": "vit", "a": [[{"experts_implementation": "evil/kernel"}]]},
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_configuration_that_leads_out_of_itself_is_refused_where_it_is_said(case: str):
    with pytest.raises(ArchitectureInvalid):
        check_transformers_config(HOSTILE[case])
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Architecture).validate_python({"architecture": "transformers", "config": HOSTILE[case]})
    assert refused.value.errors()[0]["type"] == "architecture-invalid"


def test_the_words_name_what_was_given():
    with pytest.raises(ArchitectureInvalid, match=r"'timm_wrapper', and must be one of beit, .* vit_msn"):
        check_transformers_config({"model_type": "timm_wrapper"})
    with pytest.raises(ArchitectureInvalid, match="a field '_attn_implementation'"):
        check_transformers_config({"model_type": "vit", "_attn_implementation": "eager"})


@pytest.mark.parametrize("case", HOSTILE)
def test_the_library_never_sees_what_got_past_the_contract(case: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extras, "imported", lambda _name: pytest.fail("the library was asked for"))
    past = Transformers.model_construct(config=HOSTILE[case])
    with pytest.raises(ArchitectureInvalid):
        build_foreign(past, ImageInput(height=8, width=8, channels=3), 4, seed=0)


def test_depth_is_no_way_past_it():
    deep: Any = {"auto_map": {}}
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ArchitectureInvalid, match="auto_map"):
        check_transformers_config({"model_type": "vit", "a": deep})


def test_what_a_family_says_of_itself_passes():
    check_transformers_config(
        {"model_type": "clip", "_attn_implementation_autoset": True, "vision_config": {"hidden_size": 8}}
    )
