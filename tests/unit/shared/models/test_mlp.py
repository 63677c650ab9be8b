import pytest
import torch

from shared.contracts.architectures import Mlp
from shared.contracts.images import ImageInput
from shared.errors import UnknownLayer
from shared.models.checkpoints import load_into, stack
from shared.models.network import Network

IMAGE = ImageInput(height=4, width=3, channels=2)
NETWORK = Network(Mlp(hidden_units=(7, 5)), IMAGE, 3)


def nets(*seeds: int) -> list[dict[str, torch.Tensor]]:
    return [NETWORK.initial(seed) for seed in seeds]


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 2, 4, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_stacked_nets_answer_as_each_net_does_alone(seeds):
    images = pictures(len(seeds), 6)
    together = NETWORK.logits(stack(nets(*seeds)), images)
    for net, (seed, logits) in enumerate(zip(seeds, together, strict=True)):
        alone = load_into(NETWORK.module(), nets(seed)[0])(images[net])
        torch.testing.assert_close(logits, alone)


def test_the_logits_are_those_of_the_perceptron_by_hand():
    (net,) = nets(4)
    images = pictures(1, 2)
    hidden = images[0].double().flatten(1)
    found = {}
    for layer in range(3):
        hidden = hidden @ net[f"layers.{layer}.weight"].double().T + net[f"layers.{layer}.bias"].double()
        hidden = hidden.clamp(min=0) if layer < 2 else hidden
        found[f"hidden.{layer}"] = hidden
    logits, features = NETWORK.features(stack([net]), images, ["hidden.1"])
    torch.testing.assert_close(logits[0].double(), hidden, atol=1e-5, rtol=1e-5)
    assert list(features) == ["hidden.1"]
    torch.testing.assert_close(features["hidden.1"][0].double(), found["hidden.1"], atol=1e-5, rtol=1e-5)


def test_first_weights_follow_from_the_seed_alone():
    torch.manual_seed(1)
    once = nets(5)[0]
    torch.manual_seed(2)
    _, again = nets(6, 5)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["layers.0.weight"], nets(6)[0]["layers.0.weight"])


def test_first_weights_keep_the_scale_of_what_passes_through():
    """He et al. 2015: variance 2 / fan-in, biases 0."""
    net = Network(Mlp(hidden_units=(800,)), IMAGE, 3).initial(0)
    assert net["layers.0.weight"].std().item() == pytest.approx((2 / 24) ** 0.5, rel=0.02)
    assert not net["layers.0.bias"].any()


def test_a_dropped_unit_has_no_say():
    (net,) = nets(0)
    images = pictures(1, 2)
    keep = [torch.ones(1, 2, units) for units in NETWORK.dropout_units]
    assert [tuple(factors.shape) for factors in keep] == [(1, 2, 24), (1, 2, 7), (1, 2, 5)]
    keep[1][..., 2] = 0
    silenced = {name: tensor.clone() for name, tensor in net.items()}
    silenced["layers.1.weight"][:, 2] = 0
    torch.testing.assert_close(
        NETWORK.logits(stack([net]), images, keep), NETWORK.logits(stack([silenced]), images)
    )


def test_its_parts_are_named():
    assert NETWORK.parameters == 24 * 7 + 7 + 7 * 5 + 5 + 5 * 3 + 3
    assert NETWORK.trainable == set(NETWORK.initial(0))
    assert NETWORK.max_norm_weights == ("layers.0.weight", "layers.1.weight")
    assert NETWORK.head == ("layers.2.weight", "layers.2.bias")
    assert NETWORK.layers == {"hidden.0": (7,), "hidden.1": (5,)}
    assert NETWORK.shapes == {name: tuple(tensor.shape) for name, tensor in NETWORK.initial(0).items()}


def test_a_layer_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UnknownLayer) as caught:
        NETWORK.features(stack(nets(0)), pictures(1, 2), ["hidden.2"])
    assert "hidden.0, hidden.1" in caught.value.remedy
