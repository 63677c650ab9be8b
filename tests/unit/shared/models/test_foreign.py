"""Nets of other libraries behave as ours do. Where a library is missing, what says so is tested."""

import pytest
import torch
from torch import nn

from shared.contracts.architectures import Timm, Transformers
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.transformers_configs import IMAGE_CLASSIFIERS
from shared.distillation.export import export_onnx, parity
from shared.errors import ArchitectureInvalid, ExtraMissing
from shared.models import extras
from shared.models.checkpoints import load_into, stack, unstack
from shared.models.foreign import ForeignFamily
from shared.models.network import Network
from shared.models.seeds import generator_of

IMAGE = ImageInput(height=16, width=16, channels=1)
VIT = Transformers(
    config={
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "patch_size": 8,
        "hidden_dropout_prob": 0.5,
    }
)
RESNET = Transformers(
    config={
        "model_type": "resnet",
        "embedding_size": 4,
        "hidden_sizes": [4, 8],
        "depths": [1, 1],
        "layer_type": "basic",
    }
)


def stand_in(seed: int) -> nn.Module:
    """A net such as a library would make: BatchNorm and its counter, dropout, a linear layer at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
            nn.Dropout(0.5), nn.Linear(4 * 16, 3),
        )  # fmt: skip


def pictures(*lead: int) -> torch.Tensor:
    return torch.randn(*lead, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network(monkeypatch) -> Network:
    monkeypatch.setattr(
        "shared.models.network.build_foreign", lambda _net, _image, _classes, seed: stand_in(seed)
    )
    return Network(Timm(model="stand_in"), IMAGE, 3)


def check_behaviour(network: Network) -> None:
    """A net answers and trains as the plain module does, and beside others as alone."""
    tensors = stack([network.initial(seed) for seed in (0, 1)])
    images = pictures(2, 6)
    network.logits(tensors, images, training=True)
    answers = network.logits(tensors, images)
    assert torch.equal(answers, network.logits(tensors, images)), "no dropout of its own"
    for net in range(2):
        module = load_into(network.module(), unstack(tensors)[net])
        torch.testing.assert_close(answers[net], module(images[net]), atol=1e-5, rtol=1e-4)
    weights = {name: t.clone().requires_grad_(name in network.trainable) for name, t in tensors.items()}
    network.logits(weights, images, training=True).square().sum().backward()
    alone = {name: t[1:].clone().requires_grad_(name in network.trainable) for name, t in tensors.items()}
    network.logits(alone, images[1:], training=True).square().sum().backward()
    for name in tensors:
        torch.testing.assert_close(weights[name][1:], alone[name], msg=name)
        if alone[name].grad is not None:
            torch.testing.assert_close(weights[name].grad[1:], alone[name].grad, msg=name)
    keep = [torch.ones(2, 6, network.dropout_units[0]), torch.zeros(2, 6, network.dropout_units[1])]
    bias = tensors[network.head[1]].unsqueeze(1).expand(2, 6, -1)
    torch.testing.assert_close(network.logits(tensors, images, keep), bias)
    logits, features = network.features(tensors, images, list(network.layers))
    torch.testing.assert_close(logits, answers)
    assert {name: feature.shape[2:] for name, feature in features.items()} == network.layers


def test_it_answers_and_learns_as_the_plain_module_and_beside_others_as_alone(network):
    check_behaviour(network)


def test_training_moves_the_buffers_as_the_plain_module_does(network):
    tensors = stack([network.initial(0)])
    module = load_into(network.module(), network.initial(0)).train()
    network.logits(tensors, pictures(1, 6), training=True)
    module(pictures(6))
    torch.testing.assert_close(tensors["net.1.running_var"][0], module.net[1].running_var)
    assert (tensors["net.1.running_mean"] != 0).all()


def test_its_tensors_are_float32_and_follow_from_the_seed(network):
    first, again, other = network.initial(4), network.initial(4), network.initial(5)
    assert "net.1.running_mean" in first
    assert not [name for name in first if "num_batches" in name]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["net.0.weight"], other["net.0.weight"])
    assert network.head == ("net.5.weight", "net.5.bias")
    assert network.max_norm_weights == ("net.0.weight",)
    assert network.dropout_units == (256, 64)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 3, bias=False)), "no linear layer with a bias"),
        (nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(256, 3)), "3 channels"),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 3), nn.Linear(3, 2)), r"answers \(2,\), not 3"),
    ],
)
def test_a_net_that_cannot_serve_is_refused_with_the_reason(net, reason):
    with pytest.raises(ArchitectureInvalid, match=reason):
        ForeignFamily(lambda _seed: net, "somewhere", IMAGE, 3)


def test_an_extra_that_is_missing_is_named(monkeypatch):
    def missing(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    for architecture, extra in ((VIT, "transformers"), (Timm(model="resnet18"), "timm")):
        with pytest.raises(ExtraMissing) as caught:
            Network(architecture, IMAGE, 3)
        assert f"imago[worker,{extra}]" in caught.value.remedy


def test_a_torchvision_that_does_not_fit_torch_is_an_extra_missing(monkeypatch):
    def unfit(_name: str):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(extras.importlib, "import_module", unfit)
    with pytest.raises(ExtraMissing, match="torchvision::nms"):
        Network(Timm(model="resnet18"), IMAGE, 3)


@pytest.mark.parametrize("architecture", [VIT, RESNET], ids=["vit", "resnet"])
def test_a_net_of_transformers_behaves_as_ours_do(architecture, tmp_path):
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    network = Network(architecture, IMAGE, 3)
    check_behaviour(network)
    first = network.initial(1)
    assert all(torch.equal(first[name], tensor) for name, tensor in network.initial(1).items())
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}
    pytest.importorskip("onnxscript", reason="the extra `transformers` is not installed")
    preprocessing = Preprocessing(input=IMAGE, mean=(0.3,), std=(0.5,))
    module = load_into(network.module(), first)
    export_onnx(module, preprocessing, ("a", "b", "c"), tmp_path / "model.onnx")
    images = torch.randint(0, 256, (7, 16, 16, 1), dtype=torch.uint8, generator=generator_of("images"))
    for rows in (1, 7):
        assert parity(tmp_path / "model.onnx", module, preprocessing, images[:rows]) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_configuration_that_makes_no_net_is_refused():
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    wrong = Transformers(config={**VIT.config, "hidden_size": "wide"})
    with pytest.raises(ArchitectureInvalid, match="transformers makes no net"):
        Network(wrong, IMAGE, 3)


def test_every_family_that_is_taken_is_an_image_classifier_of_the_library():
    names = pytest.importorskip("transformers.models.auto.modeling_auto")
    known = set(names.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
    assert known >= IMAGE_CLASSIFIERS
    assert "timm_wrapper" in known - IMAGE_CLASSIFIERS


def test_a_net_of_timm_behaves_as_ours_do():
    try:
        import timm
    except (ImportError, RuntimeError):
        pytest.skip("the extra `timm` is not installed, or its torchvision does not fit this torch")
    assert timm
    for model in ("resnet10t", "test_vit"):
        check_behaviour(Network(Timm(model=model), IMAGE, 3))
    with pytest.raises(ArchitectureInvalid):
        Network(Timm(model="no_such_net"), IMAGE, 3)
