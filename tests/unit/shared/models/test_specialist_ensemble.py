"""A generalist with specialists as a teacher."""

import numpy as np
import pytest
import torch

from shared.artefacts.store import ArtefactStore
from shared.errors import InputMismatch
from shared.models.checkpoints import from_arrays
from shared.models.ensemble import StackedEnsemble
from shared.models.specialist_ensemble import SpecialistEnsemble, ensemble_of, shapes_of
from tests.support.specialists import expected_q, publish_ensemble
from tests.support.teachers import publish, random_images, softmax


def ensemble(root) -> StackedEnsemble:
    description = publish_ensemble(root)
    return ensemble_of(description, from_arrays(ArtefactStore(root).teachers.load(description)))


def test_it_answers_the_combination_of_its_nets(tmp_path):
    images = random_images(40)
    answers = ensemble(tmp_path).softened_logits(torch.from_numpy(images), temperature=1.0).numpy()
    np.testing.assert_allclose(softmax(answers.astype(np.float64)), expected_q(images), atol=1e-5)
    np.testing.assert_allclose(answers.mean(1), 0, atol=1e-5)


def test_its_logits_at_t_are_those_at_1_divided_by_t(tmp_path):
    experts, images = ensemble(tmp_path), torch.from_numpy(random_images(10))
    assert experts.tempers
    at_one = experts.softened_logits(images, temperature=1.0)
    torch.testing.assert_close(experts.softened_logits(images, temperature=4.0), at_one / 4)


def test_images_of_another_size_are_refused(tmp_path):
    with pytest.raises(InputMismatch):
        ensemble(tmp_path).softened_logits(torch.zeros(1, 5, 5, 1, dtype=torch.uint8), temperature=1.0)


def test_every_tensor_of_every_net_is_expected_once(tmp_path):
    description = publish_ensemble(tmp_path)
    tensors = ArtefactStore(tmp_path).teachers.load(description)
    assert shapes_of(description) == {name: array.shape for name, array in tensors.items()}
    plain = publish(tmp_path, "plain", members=3)
    tensors = ArtefactStore(tmp_path).teachers.load(plain)
    assert shapes_of(plain) == {name: array.shape for name, array in tensors.items()}


def test_a_teacher_without_specialists_is_a_plain_ensemble(tmp_path):
    plain = publish(tmp_path, members=2)
    loaded = ensemble_of(plain, from_arrays(ArtefactStore(tmp_path).teachers.load(plain)))
    assert not isinstance(loaded, SpecialistEnsemble)
    assert isinstance(ensemble(tmp_path), SpecialistEnsemble)
