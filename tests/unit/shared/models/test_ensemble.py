from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from shared.contracts.architectures import Architecture, Cnn, Mlp, ResNet
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.teachers import Nets, TeacherDescription, tempers
from shared.errors import InputMismatch, InvalidTemperature
from shared.models.checkpoints import load_into, stack, unstack
from shared.models.ensemble import StackedEnsemble, merge_logits
from shared.models.network import Network
from shared.models.normalise import normalise

IMAGE = ImageInput(height=3, width=3, channels=1)
ARCHITECTURE = Mlp(hidden_units=(6,))


def member_logits(members: int = 3) -> torch.Tensor:
    return 4 * torch.randn(members, 5, 4, generator=torch.Generator().manual_seed(0))


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_the_arithmetic_merge_is_the_mean_of_the_members_probabilities_at_t():
    z = member_logits()
    merged = merge_logits(z, temperature=3.0, merge="arithmetic")
    expected = softmax(z.double().numpy() / 3.0).mean(0)
    np.testing.assert_allclose(softmax(merged.double().numpy()), expected, rtol=1e-5)


def test_the_geometric_merge_is_the_mean_of_logits_divided_by_t():
    z = member_logits()
    merged = merge_logits(z, temperature=3.0, merge="geometric")
    mean = z.double().mean(0)
    torch.testing.assert_close(
        merged.double(), (mean - mean.mean(-1, keepdim=True)) / 3, atol=1e-6, rtol=1e-5
    )


def test_the_two_means_differ():
    z = member_logits()
    arithmetic, geometric = (
        merge_logits(z, temperature=1.0, merge=merge).softmax(-1) for merge in ("arithmetic", "geometric")
    )
    assert (arithmetic - geometric).abs().max() > 0.05


@pytest.mark.parametrize("merge", ["geometric", "arithmetic"])
def test_rows_have_zero_mean(merge):
    merged = merge_logits(member_logits() + 100, temperature=2.0, merge=merge)
    torch.testing.assert_close(merged.mean(-1), torch.zeros(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("merge", "members"), [("geometric", 3), ("geometric", 1), ("arithmetic", 1)])
def test_where_a_teacher_tempers_its_logits_at_t_are_those_at_1_divided_by_t(merge, members):
    assert tempers(Nets(architecture=ARCHITECTURE, members=members, merge=merge))
    z = member_logits(members)
    torch.testing.assert_close(
        merge_logits(z, temperature=7.0, merge=merge), merge_logits(z, temperature=1.0, merge=merge) / 7
    )


def test_an_arithmetic_ensemble_does_not_temper():
    assert not tempers(Nets(architecture=ARCHITECTURE, members=2, merge="arithmetic"))
    z = member_logits()
    at_7, at_1 = (merge_logits(z, temperature=t, merge="arithmetic") for t in (7.0, 1.0))
    assert (at_7 - at_1 / 7).abs().max() > 0.01


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(InvalidTemperature):
        merge_logits(member_logits(), temperature=temperature, merge="geometric")


def ensemble(
    architecture: Architecture = ARCHITECTURE, members: int = 2
) -> tuple[StackedEnsemble, list[torch.nn.Module]]:
    """A teacher, and its members as plain modules with buffers of their own."""
    network = Network(architecture, IMAGE, 4)
    tensors = stack([network.initial(seed) for seed in range(members)])
    network.logits(tensors, torch.randn(members, 9, 1, 3, 3), training=True)
    description = TeacherDescription(
        name="owl",
        digest="0" * 64,
        model=Nets(architecture=architecture, members=members, merge="arithmetic"),
        classes=("a", "b", "c", "d"),
        preprocessing=Preprocessing(input=IMAGE, mean=(0.2,), std=(0.3,)),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    modules = [load_into(network.module(), net) for net in unstack(tensors)]
    return StackedEnsemble(description, tensors), modules


@pytest.mark.parametrize(
    "architecture",
    [ARCHITECTURE, Cnn(channels=(3,), hidden_units=5), ResNet(architecture="resnet8")],
    ids=["mlp", "cnn", "resnet8"],
)
def test_a_teacher_asks_each_member_about_each_image(architecture):
    teacher, modules = ensemble(architecture, members=3)
    images = torch.randint(
        0, 256, (5, 3, 3, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    batch = normalise(images, teacher.description.preprocessing)
    with torch.inference_mode():
        members = torch.stack([module(batch) for module in modules])
    torch.testing.assert_close(
        teacher.softened_logits(images, temperature=2.0),
        merge_logits(members, temperature=2.0, merge="arithmetic"),
        atol=1e-5,
        rtol=1e-4,
    )
    assert not teacher.tempers


def test_images_of_another_size_are_refused():
    teacher, _ = ensemble()
    with pytest.raises(InputMismatch, match="3 x 3 x 1, got 3 x 4 x 1"):
        teacher.softened_logits(torch.zeros(1, 3, 4, 1, dtype=torch.uint8), temperature=1.0)
