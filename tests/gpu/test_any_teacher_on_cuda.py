"""Teachers of every kind where the device is a GPU: nets in float16, graphs, and both together."""

import numpy as np
import onnxruntime
import pytest
import torch

from services.teacher.models import Teachers
from shared.artefacts.store import ArtefactStore
from shared.models.onnx_teacher import CUDA, OnnxTeacher
from tests.support.any_teachers import publish_mixed, publish_onnx
from tests.support.onnx_graphs import linear_logits, linear_weights
from tests.support.teachers import expected_logits, publish, random_images, random_tensors, softmax

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
IMAGES = random_images(300)
GRAPHS_ON_CARD = CUDA in onnxruntime.get_available_providers()


def held(root, name: str):
    teachers = Teachers(ArtefactStore(root).teachers, device=torch.device("cuda"), max_held=4)
    return teachers.hold(name)[1]


def test_nets_in_float16_answer_by_the_formula(tmp_path):
    publish(tmp_path, members=3, precision="float16")
    found = held(tmp_path, "shapes").softened_logits(torch.from_numpy(IMAGES), temperature=2.0)
    expected = expected_logits(random_tensors(members=3), IMAGES, temperature=2.0)
    np.testing.assert_allclose(found.cpu().numpy(), expected, atol=2e-2)
    assert float(np.abs(found.cpu().numpy() - expected).max()) > 1e-6  # it was not float32


@pytest.mark.parametrize(
    "options", [{}, {"datatype": "float16"}, {"datatype": "uint8"}, {"rows": 7}, {"trailing": 2}]
)
def test_a_graph_answers_as_on_the_cpu_wherever_this_runtime_lets_it(tmp_path, options):
    description = publish_onnx(tmp_path, **options)
    here = held(tmp_path, "graph")
    there = OnnxTeacher(description, ArtefactStore(tmp_path).teachers.file(description, "model.onnx"))
    assert here.device.type == ("cuda" if GRAPHS_ON_CARD else "cpu")
    tolerance = 2e-2 if options.get("datatype") == "float16" else 1e-5
    found = here.member_logits(torch.from_numpy(IMAGES).cuda())
    assert found.device.type == here.device.type
    expected = there.member_logits(torch.from_numpy(IMAGES))
    torch.testing.assert_close(found.cpu(), expected, atol=tolerance, rtol=tolerance)


def test_teachers_on_different_devices_answer_together_on_the_card(tmp_path):
    publish_mixed(tmp_path, [publish(tmp_path), publish_onnx(tmp_path)], merge="arithmetic")
    found = held(tmp_path, "mixed").softened_logits(torch.from_numpy(IMAGES), temperature=3.0)
    assert found.device.type == "cuda"
    members = [
        expected_logits(random_tensors(), IMAGES, temperature=3.0),
        linear_logits(IMAGES, *linear_weights(), 0.25, 0.5) / 3,
    ]
    expected = np.mean([softmax(member) for member in members], axis=0)
    np.testing.assert_allclose(softmax(found.cpu().double().numpy()), expected, atol=1e-4)
