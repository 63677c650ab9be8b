"""The teacher's forward pass on a GPU: the same answers as the formula, by way of pinned memory."""

import numpy as np
import pytest
import torch

from services.teacher.device import answer, device_name
from services.teacher.lanes import Part
from services.teacher.models import Teachers
from shared.artefacts.store import ArtefactStore
from tests.support.teachers import expected_logits, publish, random_images, random_tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def held(root, *, merge: str, precision: str):
    publish(root, members=3, merge=merge, precision=precision)
    teachers = Teachers(ArtefactStore(root).teachers, device=torch.device("cuda"), max_held=1)
    return teachers.hold("shapes")[1]


@pytest.mark.parametrize("merge", ["geometric", "arithmetic"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_cuda_answers_each_part_by_the_formula(tmp_path, merge, precision, tolerance):
    parts = [Part(random_images(rows, seed=rows), t) for rows, t in ((300, 2.0), (1, 1.0), (50, 2.0))]
    for part, found in zip(
        parts, answer(held(tmp_path, merge=merge, precision=precision), parts), strict=True
    ):
        expected = expected_logits(
            random_tensors(members=3), part.images, temperature=part.temperature, merge=merge
        )
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_the_device_is_named_with_its_card():
    assert device_name(torch.device("cuda")).startswith("cuda (")
