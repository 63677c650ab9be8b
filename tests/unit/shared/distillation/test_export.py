import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from shared.contracts.architectures import Cnn, Mlp, ResNet
from shared.contracts.images import ImageInput, Preprocessing
from shared.distillation.export import export_onnx, measure_latency, parity
from shared.distillation.onnx_graphs import folded
from shared.errors import ParityFailed, UnknownArchitecture
from shared.models.checkpoints import load_into, stack, unstack
from shared.models.network import Network

PREPROCESSING = Preprocessing(
    input=ImageInput(height=5, width=4, channels=3), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
)
CLASSES = ("ant", "bee", "Käfer")


def student(seed: int = 0, hidden_units: tuple[int, ...] = (16, 8)) -> torch.nn.Module:
    network = Network(Mlp(hidden_units=hidden_units), PREPROCESSING.input, len(CLASSES))
    return load_into(network.module(), network.initial(seed))


def images(rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(0, 256, (rows, 5, 4, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture
def exported(tmp_path):
    export_onnx(student(), PREPROCESSING, CLASSES, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("hidden_units", [(16,), (16, 8), (9, 8, 7)])
def test_onnx_answers_as_torch_does_on_raw_pixels_of_any_batch(hidden_units, tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(student(1, hidden_units), PREPROCESSING, CLASSES, path)
    for rows in (1, 300):
        assert parity(path, student(1, hidden_units), PREPROCESSING, images(rows)) < 1e-4


def test_probabilities_are_the_softmax_of_the_logits_at_t_1(exported):
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images(7).numpy()})
    torch.testing.assert_close(torch.from_numpy(probabilities), torch.from_numpy(logits).softmax(-1))


def test_the_file_names_its_classes_and_states_its_input(exported):
    model = onnx.load(exported)
    assert {prop.key: json.loads(prop.value) for prop in model.metadata_props} == {"classes": list(CLASSES)}
    (found,) = model.graph.input
    assert found.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in found.type.tensor_type.shape.dim] == ["batch", 5, 4, 3]
    assert [output.name for output in model.graph.output] == ["logits", "probabilities"]


@pytest.mark.parametrize(
    "architecture",
    [Cnn(channels=(4, 6, 8), hidden_units=7), ResNet(architecture="resnet14")],
    ids=["cnn", "resnet14"],
)
def test_convolutional_students_answer_as_torch_does_on_images_of_odd_sizes(architecture, tmp_path):
    network = Network(architecture, PREPROCESSING.input, len(CLASSES))
    tensors = stack([network.initial(2)])
    noise = torch.randn(1, 40, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    network.logits(tensors, 3 * noise + 1, training=True)  # means and variances of their own
    module = load_into(network.module(), unstack(tensors)[0])
    path = tmp_path / "model.onnx"
    export_onnx(module, PREPROCESSING, CLASSES, path)
    for rows in (1, 300):
        assert parity(path, module, PREPROCESSING, images(rows)) < 1e-4
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}


def test_a_folded_convolution_is_convolution_and_batch_norm_by_hand():
    generator = torch.Generator().manual_seed(0)
    layer, norm = torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.1, 2.0, generator=generator)
    patch = torch.randn(1, 3, 3, 3, generator=generator).double()
    sums = (layer.weight.double() * patch).sum((1, 2, 3))
    std = (norm.running_var.double() + 1e-5).sqrt()
    expected = (sums - norm.running_mean) / std * norm.weight + norm.bias
    weight, bias = folded(layer, norm)
    found = (weight.double() * patch).sum((1, 2, 3)) + bias
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_same_student_gives_the_same_bytes_in_one_file(exported, tmp_path):
    export_onnx(student(), PREPROCESSING, CLASSES, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.onnx", "model.onnx"]


def test_another_students_answers_fail_the_parity_check(exported):
    with pytest.raises(ParityFailed) as caught:
        parity(exported, student(seed=9), PREPROCESSING, images(4))
    assert caught.value.largest_difference > 0.1


def test_answers_that_are_no_numbers_fail_the_parity_check(tmp_path):
    broken = student()
    with torch.no_grad():
        broken.layers[0].weight[0, 0] = np.nan
    export_onnx(broken, PREPROCESSING, CLASSES, tmp_path / "model.onnx")
    with pytest.raises(ParityFailed):
        parity(tmp_path / "model.onnx", student(), PREPROCESSING, images(4))


def test_latency_is_measured_for_each_batch_on_one_thread(exported):
    one, many = measure_latency(exported, PREPROCESSING.input, batches=(1, 32), calls=20)
    assert (one.batch, many.batch) == (1, 32)
    for found in (one, many):
        assert 0 < found.p50_ms <= found.p99_ms
        assert (found.calls, found.threads) == (20, 1)


def test_a_module_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UnknownArchitecture, match="Linear"):
        export_onnx(torch.nn.Linear(2, 2), PREPROCESSING, CLASSES, tmp_path / "model.onnx")
