import pytest
import torch

from shared.contracts.architectures import Mlp
from shared.contracts.images import ImageInput
from shared.errors import UnknownArchitecture
from shared.models import registry
from shared.models.checkpoints import (
    from_arrays,
    load_into,
    read_tensors,
    stack,
    to_arrays,
    to_bytes,
    unstack,
)
from shared.models.registry import (
    build,
    count_parameters,
    dropout_units,
    hidden_weights,
    initial_parameters,
    stacked_logits,
)

IMAGE = ImageInput(height=4, width=3, channels=2)
ARCHITECTURE = Mlp(hidden_units=(7, 5))


def nets(*seeds: int) -> list[dict[str, torch.Tensor]]:
    return [initial_parameters(ARCHITECTURE, IMAGE, 3, seed) for seed in seeds]


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 2, 4, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_stacked_nets_answer_as_each_net_does_alone(seeds):
    images = pictures(len(seeds), 6)
    together = stacked_logits(ARCHITECTURE, stack(nets(*seeds)), images)
    for net, (seed, logits) in enumerate(zip(seeds, together, strict=True)):
        alone = load_into(build(ARCHITECTURE, IMAGE, 3), nets(seed)[0])(images[net])
        torch.testing.assert_close(logits, alone)


def test_the_logits_are_those_of_the_perceptron_by_hand():
    (net,) = nets(4)
    images = pictures(1, 2)
    hidden = images[0].double().flatten(1)
    for layer in range(3):
        hidden = hidden @ net[f"layers.{layer}.weight"].double().T + net[f"layers.{layer}.bias"].double()
        hidden = hidden.clamp(min=0) if layer < 2 else hidden
    torch.testing.assert_close(
        stacked_logits(ARCHITECTURE, stack([net]), images)[0].double(), hidden, atol=1e-5, rtol=1e-5
    )


def test_first_weights_follow_from_the_seed_alone():
    torch.manual_seed(1)
    once = nets(5)[0]
    torch.manual_seed(2)
    _, again = nets(6, 5)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["layers.0.weight"], nets(6)[0]["layers.0.weight"])


def test_first_weights_keep_the_scale_of_what_passes_through():
    """He et al. 2015: variance 2 / fan-in, biases 0."""
    (net,) = [initial_parameters(Mlp(hidden_units=(800,)), IMAGE, 3, 0)]
    assert net["layers.0.weight"].std().item() == pytest.approx((2 / 24) ** 0.5, rel=0.02)
    assert not net["layers.0.bias"].any()


def test_a_dropped_unit_has_no_say():
    (net,) = nets(0)
    images = pictures(1, 2)
    keep = [torch.ones(1, 2, units) for units in dropout_units(ARCHITECTURE, IMAGE, 3)]
    assert [tuple(factors.shape) for factors in keep] == [(1, 2, 24), (1, 2, 7), (1, 2, 5)]
    keep[1][..., 2] = 0
    silenced = {name: tensor.clone() for name, tensor in net.items()}
    silenced["layers.1.weight"][:, 2] = 0
    torch.testing.assert_close(
        stacked_logits(ARCHITECTURE, stack([net]), images, keep),
        stacked_logits(ARCHITECTURE, stack([silenced]), images),
    )


def test_parameters_are_counted_and_hidden_weights_named():
    (net,) = nets(0)
    assert count_parameters(net) == 24 * 7 + 7 + 7 * 5 + 5 + 5 * 3 + 3
    assert hidden_weights(ARCHITECTURE) == ("layers.0.weight", "layers.1.weight")


def test_an_unregistered_architecture_is_refused():
    with pytest.raises(UnknownArchitecture):
        registry._mlp("convnet")


def test_tensors_survive_numpy_safetensors_and_stacking(tmp_path):
    first, second = nets(0, 1)
    (tmp_path / "net.safetensors").write_bytes(to_bytes(first))
    for name, tensor in first.items():
        assert torch.equal(from_arrays(to_arrays(first))[name], tensor)
        assert torch.equal(read_tensors(tmp_path / "net.safetensors")[name], tensor)
        assert torch.equal(unstack(stack([first, second]))[0][name], tensor)


def test_a_checkpoint_of_another_shape_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_into(build(Mlp(hidden_units=(8, 5)), IMAGE, 3), nets(0)[0])
