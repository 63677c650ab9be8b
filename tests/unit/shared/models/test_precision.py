"""Nets in the precision that belongs to their teacher."""

import pytest
import torch

from shared.contracts.architectures import Mlp, ResNet
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.teachers import Nets
from shared.models.checkpoints import stack
from shared.models.ensemble import StackedEnsemble, products_in
from shared.models.network import Network
from tests.support.any_teachers import described

INPUT = ImageInput(height=6, width=5, channels=1)
IMAGES = torch.randint(0, 256, (16, 6, 5, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


def teacher(precision: str, preprocessing: Preprocessing | None = None) -> StackedEnsemble:
    preprocessing = preprocessing or Preprocessing(input=INPUT, mean=(0.25,), std=(0.5,))
    architecture = Mlp(hidden_units=(64,))
    network = Network(architecture, preprocessing.seen, 4)
    model = Nets(architecture=architecture, members=2)
    tensors = stack([network.initial(seed) for seed in range(2)])
    return StackedEnsemble(described(model, preprocessing=preprocessing, precision=precision), tensors)


def test_bfloat16_rounds_the_products_and_no_more():
    exact = teacher("float32").softened_logits(IMAGES, temperature=1.0)
    rounded = teacher("bfloat16").softened_logits(IMAGES, temperature=1.0)
    assert rounded.dtype == torch.float32
    difference = float((exact - rounded).abs().max())
    assert 0 < difference < 0.02 * float(exact.abs().max())


def test_on_a_cpu_float16_is_computed_in_float32():
    with products_in("float16", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    torch.testing.assert_close(
        teacher("float16").softened_logits(IMAGES, temperature=1.0),
        teacher("float32").softened_logits(IMAGES, temperature=1.0),
        atol=0,
        rtol=0,
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_net_made_for_larger_pictures_is_asked_about_small_ones(precision):
    """It is built for what it sees, and answers as if the pictures had been enlarged before."""
    net = ImageInput(height=12, width=10, channels=3)
    enlarging = Preprocessing(input=INPUT, mean=(0.2, 0.3, 0.4), std=(0.5,) * 3, net=net)
    direct = Preprocessing(input=net, mean=(0.2, 0.3, 0.4), std=(0.5,) * 3)
    flat = torch.full((3, 6, 5, 1), 90, dtype=torch.uint8)
    torch.testing.assert_close(
        teacher(precision, enlarging).softened_logits(flat, temperature=1.0),
        teacher(precision, direct).softened_logits(flat[:, :1, :1].expand(3, 12, 10, 3), temperature=1.0),
        atol=2e-2 if precision == "bfloat16" else 1e-5,
        rtol=0,
    )


def test_a_residual_net_keeps_its_running_means_in_float32():
    network = Network(ResNet(architecture="resnet8"), INPUT, 4)
    model = Nets(architecture=ResNet(architecture="resnet8"))
    described_as = described(model, precision="bfloat16")
    found = StackedEnsemble(described_as, stack([network.initial(0)]))
    exact = StackedEnsemble(described(model), stack([network.initial(0)]))
    logits = found.softened_logits(IMAGES, temperature=1.0)
    torch.testing.assert_close(logits, exact.softened_logits(IMAGES, temperature=1.0), atol=5e-2, rtol=5e-2)
