"""The forward pass: the formula in float64, for each part its own temperature."""

import time

import numpy as np
import pytest
import torch

from services.teacher.device import Cpu, answer
from services.teacher.lanes import Part
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


def test_rows_that_the_teacher_cannot_answer_are_nan_and_their_neighbours_are_right(tmp_path):
    teacher = ensemble(tmp_path, members=2, merge="geometric")
    inner = teacher.member_logits

    def one_is_wild(images):
        logits = inner(images).clone()
        logits[1, 2, 0] = torch.inf
        return logits

    teacher.member_logits = one_is_wild
    images = random_images(4)
    (found,) = answer(teacher, [Part(images, 2.0)])
    assert np.isnan(found).all(-1).tolist() == [False, False, True, False]
    expected = expected_logits(random_tensors(members=2), images, temperature=2.0)
    np.testing.assert_allclose(found[[0, 1, 3]], expected[[0, 1, 3]], rtol=1e-4, atol=1e-5)


def test_rows_that_only_the_temperature_makes_too_large_are_infinite_and_not_nan(tmp_path):
    (found,) = answer(ensemble(tmp_path, members=1, merge="geometric"), [Part(random_images(3), 1e-39)])
    assert np.isinf(found).any(-1).all()
    assert not np.isnan(found).any()


def test_a_teacher_that_is_new_is_run_at_every_size_in_use_and_measured_once(tmp_path):
    teacher = ensemble(tmp_path, members=1, merge="geometric")
    asked = []
    inner = teacher.member_logits
    teacher.member_logits = lambda images: (asked.append(len(images)), inner(images))[1]
    device = Cpu(max_batch_rows=40, longest_s=10)
    pace = device.pace(teacher)
    assert set(asked) == {1, 2, 4, 8, 16, 32}
    assert pace.largest == 32
    asked.clear()
    assert device.pace(teacher) is pace
    assert not asked


def test_a_teacher_that_another_machine_computes_is_not_measured(tmp_path):
    teacher = ensemble(tmp_path, members=1, merge="geometric")
    teacher.elsewhere, teacher.most_rows = True, 48
    teacher.member_logits = None
    assert Cpu(max_batch_rows=1024, longest_s=0.2).pace(teacher).rows_within(0.2) == 32


def test_what_other_processes_do_meanwhile_does_not_count(tmp_path):
    teacher = ensemble(tmp_path, members=1, merge="geometric")
    inner = teacher.member_logits
    teacher.member_logits = lambda images: (time.sleep(0.02), inner(images))[1]
    device = Cpu(max_batch_rows=1, longest_s=1.0)
    assert device.pace(teacher).seconds_of(1) < 0.01
    device.start(teacher, [Part(random_images(1), 1.0)])()
    assert device.pace(teacher).seconds_of(1) < 0.01
