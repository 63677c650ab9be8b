"""A graph as a teacher: the numbers are the formula's, whatever it takes and gives."""

import numpy as np
import pytest
import torch

from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.teachers import OnnxModel
from shared.errors import InputMismatch, TeacherAnswerInvalid
from shared.models.onnx_facts import inspect_onnx, onnx_model_of
from shared.models.onnx_teacher import OnnxTeacher
from shared.models.wholes import logits_out
from tests.support.any_teachers import described
from tests.support.onnx_graphs import linear_graph, linear_logits, linear_weights
from tests.support.teachers import INPUT, random_images

IMAGES = random_images(7)


def teacher(tmp_path, **options) -> OnnxTeacher:
    graph = linear_graph(tmp_path / "model.onnx", **options)
    answers = "probabilities" if options.get("probabilities") else "logits"
    model, _, _ = onnx_model_of(inspect_onnx(graph), answers=answers)
    return OnnxTeacher(described(model), graph)


def expected(images=IMAGES, mean: float = 0.25, std: float = 0.5, temperature: float = 1.0) -> np.ndarray:
    logits = linear_logits(images, *linear_weights(), mean, std) / temperature
    return logits - logits.mean(-1, keepdims=True)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("rows", [None, 1, 3, 16])
def test_logits_are_those_of_the_graph_however_many_images_it_takes(tmp_path, layout, rows):
    found = teacher(tmp_path, layout=layout, rows=rows)
    logits = found.softened_logits(torch.from_numpy(IMAGES), temperature=2.0)
    np.testing.assert_allclose(logits.numpy(), expected(temperature=2.0), atol=1e-5)
    assert found.most_rows == rows
    assert found.member_logits(torch.from_numpy(IMAGES)).shape == (1, 7, 4)


def test_a_graph_of_float16_takes_and_gives_it(tmp_path):
    found = teacher(tmp_path, datatype="float16")
    logits = found.softened_logits(torch.from_numpy(IMAGES), temperature=1.0)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.numpy(), expected(), atol=2e-2)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_graph_of_uint8_takes_pixels_as_they_are(tmp_path, layout):
    """Mean and std of the description have no part in it: the graph normalises, here by 1/255."""
    found = teacher(tmp_path, datatype="uint8", layout=layout)
    logits = found.softened_logits(torch.from_numpy(IMAGES), temperature=1.0)
    np.testing.assert_allclose(logits.numpy(), expected(mean=0.0, std=1.0), atol=1e-5)


def test_pixels_are_brought_to_the_size_that_the_graph_sees(tmp_path):
    """Twice the size, three channels: the same as asking about images that were enlarged before."""
    net = ImageInput(height=12, width=10, channels=3)
    graph = linear_graph(tmp_path / "model.onnx", size=net, datatype="uint8")
    model, takes, _ = onnx_model_of(inspect_onnx(graph))
    assert takes.image == net
    preprocessing = Preprocessing(input=INPUT, mean=(0.0,) * 3, std=(1.0,) * 3, net=net)
    found = OnnxTeacher(described(model, preprocessing=preprocessing), graph)
    flat = np.full((2, 6, 5, 1), 200, np.uint8)  # of one colour: resizing changes nothing
    enlarged = np.full((2, 12, 10, 3), 200, np.uint8)
    logits = found.member_logits(torch.from_numpy(flat))[0].numpy()
    np.testing.assert_allclose(logits, linear_logits(enlarged, *linear_weights(size=net), 0, 1), atol=1e-5)


def test_of_probabilities_the_logarithm_is_taken(tmp_path):
    found = teacher(tmp_path, probabilities=True)
    logits = found.softened_logits(torch.from_numpy(IMAGES), temperature=3.0)
    np.testing.assert_allclose(logits.numpy(), expected(temperature=3.0), atol=1e-5)


def test_trailing_dimensions_of_length_one_are_dropped(tmp_path):
    found = teacher(tmp_path, trailing=2)
    logits = found.softened_logits(torch.from_numpy(IMAGES), temperature=1.0)
    np.testing.assert_allclose(logits.numpy(), expected(), atol=1e-5)


def test_logits_that_are_described_as_probabilities_are_refused_with_a_sum(tmp_path):
    graph = linear_graph(tmp_path / "model.onnx")
    model, _, _ = onnx_model_of(inspect_onnx(graph), answers="probabilities")
    with pytest.raises(
        TeacherAnswerInvalid, match=r"of 7 images do not sum to 1: of image 0 the sum is -?\d"
    ):
        OnnxTeacher(described(model), graph).member_logits(torch.from_numpy(IMAGES))


def test_a_probability_of_zero_is_taken_as_the_smallest_normal_number():
    model = OnnxModel(input="x", output="y", answers="probabilities")
    for dtype in (torch.float32, torch.float16, torch.float64):
        answer = torch.tensor([[1.0, 0.0]], dtype=dtype)
        logits = logits_out(answer, model, rows=1, classes=2, whose="it")
        assert float(logits[0, 0, 1]) == pytest.approx(np.log(torch.finfo(dtype).tiny), rel=1e-6)


def test_a_row_that_is_not_finite_is_left_for_the_caller_to_name():
    answer = torch.tensor([[1.0, 0.0], [torch.nan, 0.5]])
    for answers in ("logits", "probabilities"):
        model = OnnxModel(input="x", output="y", answers=answers)
        logits = logits_out(answer, model, rows=2, classes=2, whose="it")
        assert torch.isfinite(logits[0, 0]).all()
        assert torch.isnan(logits[0, 1, 0])


@pytest.mark.parametrize("shape", [(7, 5), (6, 4), (7, 4, 2), (28,), ()])
def test_an_answer_of_another_shape_is_refused_with_what_came(shape):
    model = OnnxModel(input="x", output="scores")
    with pytest.raises(TeacherAnswerInvalid, match="should answer 7 x 4 numbers in 'scores', got"):
        logits_out(torch.zeros(shape), model, rows=7, classes=4, whose="it")


def test_a_graph_of_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(TeacherAnswerInvalid, match="7 x 4 numbers in 'scores', got 7 x 3"):
        teacher(tmp_path, classes=3).member_logits(torch.from_numpy(IMAGES))


def test_images_of_another_size_are_refused(tmp_path):
    with pytest.raises(InputMismatch, match="6 x 5 x 1, got 5 x 6 x 1"):
        teacher(tmp_path).member_logits(torch.zeros(1, 5, 6, 1, dtype=torch.uint8))
