"""What holds for convolutional nets of every name: they are the plain nets, alone and side by side."""

import pytest
import torch
import torch.nn.functional as F

from shared.contracts.architectures import Architecture, Cnn, ResNet
from shared.contracts.images import ImageInput
from shared.errors import UnknownLayer
from shared.models.checkpoints import load_into, stack, unstack
from shared.models.network import Network

IMAGE = ImageInput(height=9, width=8, channels=3)
CNN = Cnn(channels=(4, 6), hidden_units=5)
RESNET = ResNet(architecture="resnet8")
FAMILIES = pytest.mark.parametrize("architecture", [CNN, RESNET], ids=["cnn", "resnet8"])
SAME = {"atol": 2e-5, "rtol": 1e-4}
"""Products are summed in another order: float32 rounding, a few times the eight layers deep."""


def pictures(*lead: int, image: ImageInput = IMAGE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(lead))
    return torch.randn(*lead, image.channels, image.height, image.width, generator=generator)


def used(network: Network, *seeds: int) -> dict[str, torch.Tensor]:
    """Nets whose buffers are not those of the start."""
    tensors = stack([network.initial(seed) for seed in seeds])
    network.logits(tensors, pictures(len(seeds), 12, image=network.image), training=True)
    return tensors


def step(network: Network, tensors: dict[str, torch.Tensor], images: torch.Tensor):
    """Return logits, gradients and buffers after a training pass."""
    tensors = {name: t.clone().requires_grad_(name in network.trainable) for name, t in tensors.items()}
    logits = network.logits(tensors, images, training=True)
    labels = torch.arange(images.shape[1]) % network.classes
    sum(F.cross_entropy(of_net, labels) for of_net in logits).backward()
    return (
        logits.detach(),
        {name: tensors[name].grad for name in network.trainable},
        {name: tensor for name, tensor in tensors.items() if name not in network.trainable},
    )


@FAMILIES
@pytest.mark.parametrize(
    "image", [IMAGE, ImageInput(height=13, width=15, channels=1)], ids=["9x8 rgb", "13x15 grey"]
)
def test_a_net_answers_as_the_plain_module_does(architecture: Architecture, image: ImageInput):
    network = Network(architecture, image, 4)
    tensors = used(network, 3)
    module = load_into(network.module(), unstack(tensors)[0])
    images = pictures(1, 5, image=image)
    torch.testing.assert_close(network.logits(tensors, images)[0], module(images[0]), **SAME)


@FAMILIES
def test_a_step_of_a_net_is_a_step_of_the_plain_module(architecture: Architecture):
    network = Network(architecture, IMAGE, 4)
    tensors = used(network, 3)
    module = load_into(network.module(), unstack(tensors)[0]).train()
    images = pictures(1, 6)
    logits, gradients, buffers = step(network, tensors, images)
    expected = module(images[0])
    F.cross_entropy(expected, torch.arange(6) % 4).backward()
    torch.testing.assert_close(logits[0], expected, **SAME)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(gradients[name][0], parameter.grad, msg=name, **SAME)
    for name, buffer in module.named_buffers():
        if "num_batches" not in name:
            torch.testing.assert_close(buffers[name][0], buffer, msg=name, **SAME)


@FAMILIES
def test_nets_side_by_side_answer_and_learn_as_each_alone(architecture: Architecture):
    network = Network(architecture, IMAGE, 4)
    tensors = used(network, 0, 1, 2)
    images = pictures(3, 6)
    together = step(network, tensors, images)
    answers = network.logits(tensors, images)
    for net in range(3):
        alone = {name: tensor[net : net + 1] for name, tensor in tensors.items()}
        logits, gradients, buffers = step(network, alone, images[net : net + 1])
        torch.testing.assert_close(together[0][net : net + 1], logits, **SAME)
        for name in gradients:
            torch.testing.assert_close(together[1][name][net], gradients[name][0], msg=name, **SAME)
        for name in buffers:
            torch.testing.assert_close(together[2][name][net], buffers[name][0], msg=name, **SAME)
        torch.testing.assert_close(answers[net], network.logits(alone, images[net : net + 1])[0], **SAME)


@FAMILIES
def test_without_training_no_buffer_moves(architecture: Architecture):
    network = Network(architecture, IMAGE, 4)
    tensors = used(network, 0)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    network.logits(tensors, pictures(1, 6))
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors.items())


@FAMILIES
def test_products_in_bfloat16_stay_near_those_in_float32(architecture: Architecture):
    network = Network(architecture, IMAGE, 4)
    tensors = used(network, 0)
    images = pictures(1, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network.logits(tensors, images, training=True)
    exact = network.logits(tensors, images, training=True)
    torch.testing.assert_close(rough.float(), exact, atol=0.05 * exact.abs().max().item(), rtol=0)
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


@FAMILIES
def test_every_layer_gives_features_of_the_shape_it_states(architecture: Architecture):
    network = Network(architecture, IMAGE, 4)
    tensors = used(network, 0, 1)
    images = pictures(2, 6)
    logits, features = network.features(tensors, images, list(network.layers))
    torch.testing.assert_close(logits, network.logits(tensors, images))
    assert {name: tuple(feature.shape) for name, feature in features.items()} == {
        name: (2, 6, *shape) for name, shape in network.layers.items()
    }
    assert all((feature >= 0).all() and feature.any() for feature in features.values()), "after a ReLU"
    with pytest.raises(UnknownLayer):
        network.features(tensors, images, ["block.99"])


@FAMILIES
def test_the_head_turns_the_last_features_into_logits(architecture: Architecture):
    network = Network(architecture, IMAGE, 4)
    tensors = used(network, 0)
    last = list(network.layers)[-1]
    logits, features = network.features(tensors, pictures(1, 6), [last])
    units = features[last][0]
    units = units.mean((-2, -1)) if units.dim() == 4 else units
    weight, bias = (tensors[name][0] for name in network.head)
    assert (weight.shape, bias.shape) == ((4, units.shape[1]), (4,))
    torch.testing.assert_close(logits[0], units @ weight.T + bias, **SAME)


@FAMILIES
def test_dropped_pixels_have_no_say_and_dropped_units_leave_the_bias(architecture: Architecture):
    network = Network(architecture, IMAGE, 4)
    tensors = used(network, 0, 1)
    images = pictures(2, 6)
    keep = [torch.ones(2, 6, units) for units in network.dropout_units]
    torch.testing.assert_close(network.logits(tensors, images, keep), network.logits(tensors, images))
    keep[0].view(2, 6, 3, 9, 8)[:, :, 1, 4, :] = 0
    blotted = images.clone()
    blotted[:, :, 1, 4, :] = 0
    torch.testing.assert_close(
        network.logits(tensors, images, [keep[0], *[None] * (len(keep) - 1)]),
        network.logits(tensors, blotted),
    )
    keep[-1].zero_()
    tensors[network.head[1]][:] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(2, 6, 4)
    torch.testing.assert_close(network.logits(tensors, images, keep), expected)


@FAMILIES
def test_its_parts_are_named(architecture: Architecture):
    network = Network(architecture, IMAGE, 4)
    first = network.initial(7)
    assert network.shapes == {name: tuple(tensor.shape) for name, tensor in first.items()}
    module = network.module()
    assert network.trainable == {name for name, _ in module.named_parameters()}
    assert network.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert set(network.max_norm_weights) <= network.trainable - set(network.head)
    assert all(first[name].dim() > 1 for name in network.max_norm_weights)


@FAMILIES
def test_first_weights_follow_he_and_the_seed_alone(architecture: Architecture):
    """He et al. 2015: variance 2 / fan-in."""
    network = Network(architecture, IMAGE, 40)
    first = network.initial(7)
    torch.manual_seed(3)
    again = network.initial(7)
    assert all(torch.equal(first[name], again[name]) for name in first)
    weight = first[network.max_norm_weights[-2]]
    fan_in = weight[0].numel()
    assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.15)
    assert not first[network.head[1]].any()
    for name, tensor in first.items():
        if "running_mean" in name:
            assert not tensor.any()
        if "running_var" in name or ("norm" in name and name.endswith("weight")):
            assert (tensor == 1).all()


def test_six_blocks_fit_on_eight_pixels():
    network = Network(Cnn(channels=(2,) * 6, hidden_units=3), ImageInput(height=8, width=8, channels=1), 4)
    assert network.layers["block.5"] == (2, 1, 1)
    images = pictures(1, 2, image=network.image)
    assert network.logits(stack([network.initial(0)]), images).shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [
        # CIFAR-100 tables of knowledge distillation (Tian et al. 2020, arXiv:1910.10699, and its code).
        ("resnet8", 100, "0.08"),
        ("resnet20", 100, "0.28"),
        ("resnet32", 100, "0.47"),
        ("resnet56", 100, "0.86"),
        ("resnet110", 100, "1.74"),
        ("resnet8x4", 100, "1.23"),
        ("resnet32x4", 100, "7.43"),
        ("resnet20", 10, "0.27"),
    ],
)
def test_parameters_are_as_many_as_published(name: str, classes: int, published: str):
    network = Network(ResNet(architecture=name), ImageInput(height=32, width=32, channels=3), classes)
    assert f"{network.parameters / 1e6:.2f}" == published


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85), ("resnet110", 1.7)],
)
def test_projections_add_little_to_the_nets_of_he(name: str, millions: float):
    """He et al. 2015, table 6, whose shortcuts have no parameters: ours have 2,752 more."""
    network = Network(ResNet(architecture=name), ImageInput(height=32, width=32, channels=3), 10)
    assert (network.parameters - 2752) / 1e6 == pytest.approx(millions, rel=0.02)


def test_the_deepest_block_of_each_stage_is_the_stage():
    network = Network(ResNet(architecture="resnet14"), ImageInput(height=32, width=32, channels=3), 10)
    assert network.layers["stage.0"] == (16, 32, 32)
    assert network.layers["stage.2"] == network.layers["block.5"] == (64, 8, 8)
    tensors = used(network, 0)
    _, features = network.features(
        tensors, pictures(1, 2, image=network.image), ["stage.1", "block.3", "block.2"]
    )
    assert torch.equal(features["stage.1"], features["block.3"])
    assert not torch.equal(features["stage.1"], features["block.2"])
