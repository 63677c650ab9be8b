"""The forward pass: the formula in float64, for each part its own temperature."""

import numpy as np
import pytest
import torch

from services.teacher.batching import Part
from services.teacher.device import answer
from shared.models.checkpoints import from_arrays
from shared.models.ensemble import StackedEnsemble
from tests.support.teachers import expected_logits, publish, random_images, random_tensors


def ensemble(root, *, members: int, merge: str, precision: str = "float32") -> StackedEnsemble:
    description = publish(root, members=members, merge=merge, precision=precision)
    tensors = from_arrays(random_tensors(members=members))
    return StackedEnsemble(description, tensors, device=torch.device("cpu"))


@pytest.mark.parametrize("merge", ["geometric", "arithmetic"])
@pytest.mark.parametrize("members", [1, 3])
def test_each_part_is_answered_by_the_formula_at_its_own_temperature(tmp_path, members, merge):
    teacher = ensemble(tmp_path, members=members, merge=merge)
    temperatures = [4.0, 1.0, 20.0, 1.0, 0.5, 4.0]
    parts = [
        Part(random_images(rows, seed=rows), temperature)
        for rows, temperature in zip((3, 1, 7, 2, 5, 4), temperatures, strict=True)
    ]
    answers = answer(teacher, parts)
    for part, found in zip(parts, answers, strict=True):
        expected = expected_logits(
            random_tensors(members=members), part.images, temperature=part.temperature, merge=merge
        )
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_arithmetic_and_geometric_ensembles_of_the_same_nets_differ(tmp_path):
    part = Part(random_images(4), 1.0)
    (geometric,) = answer(ensemble(tmp_path, members=3, merge="geometric"), [part])
    (arithmetic,) = answer(ensemble(tmp_path, members=3, merge="arithmetic"), [part])
    assert np.abs(geometric - arithmetic).max() > 0.01


def test_bfloat16_is_near_float32_and_not_the_same(tmp_path):
    part = Part(random_images(50), 1.0)
    (exact,) = answer(ensemble(tmp_path, members=2, merge="geometric"), [part])
    (rounded,) = answer(ensemble(tmp_path, members=2, merge="geometric", precision="bfloat16"), [part])
    assert 0 < np.abs(exact - rounded).max() < 0.1
