"""Teachers of different kinds that answer as one."""

import numpy as np
import pytest
import torch

from shared.contracts.architectures import Mlp
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.teachers import MemberTeacher, MixedEnsemble, Nets
from shared.errors import ClassMismatch, InputMismatch, TeacherDoesNotTemper
from shared.models.checkpoints import from_arrays
from shared.models.ensemble import StackedEnsemble
from shared.models.mixed import MixedTeacher
from shared.models.onnx_facts import inspect_onnx, onnx_model_of
from shared.models.onnx_teacher import OnnxTeacher
from tests.support.any_teachers import described
from tests.support.onnx_graphs import linear_graph, linear_logits, linear_weights
from tests.support.teachers import CLASSES, expected_logits, random_images, random_tensors, softmax

IMAGES = random_images(9)


def nets(*, members: int = 2, **fields) -> StackedEnsemble:
    model = Nets(
        architecture=Mlp(hidden_units=(16,)), members=members, merge=fields.pop("merge", "geometric")
    )
    return StackedEnsemble(described(model, **fields), from_arrays(random_tensors(members=members)))


def graph(tmp_path) -> OnnxTeacher:
    path = linear_graph(tmp_path / "model.onnx")
    return OnnxTeacher(described(onnx_model_of(inspect_onnx(path))[0], name="graph"), path)


def mixed(members, merge: str = "geometric", **fields) -> MixedTeacher:
    parts = tuple(MemberTeacher(name=f"m{number}", digest="0" * 64) for number in range(len(members)))
    return MixedTeacher(described(MixedEnsemble(members=parts, merge=merge), name="mixed", **fields), members)


@pytest.mark.parametrize("merge", ["geometric", "arithmetic"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_each_teacher_has_one_voice_at_t_however_many_nets_it_is(tmp_path, merge, temperature):
    found = mixed([nets(), graph(tmp_path)], merge).softened_logits(
        torch.from_numpy(IMAGES), temperature=temperature
    )
    softened = np.stack(
        [
            expected_logits(random_tensors(members=2), IMAGES, temperature=temperature),
            linear_logits(IMAGES, *linear_weights(), 0.25, 0.5) / temperature,
        ]
    )
    expected = softmax(softened).mean(0) if merge == "arithmetic" else softmax(softened.mean(0))
    np.testing.assert_allclose(softmax(found.double().numpy()), expected, atol=1e-5)
    assert found.mean(-1).abs().max() < 1e-5


def test_it_is_asked_for_as_many_rows_as_its_most_particular_member_likes(tmp_path):
    path = linear_graph(tmp_path / "model.onnx", rows=3)
    three = OnnxTeacher(described(onnx_model_of(inspect_onnx(path))[0]), path)
    assert mixed([nets(), three]).most_rows == 3
    assert mixed([nets(), nets()]).most_rows is None
    assert not mixed([nets(), three]).elsewhere


def test_a_member_of_other_classes_is_refused():
    with pytest.raises(ClassMismatch, match="member 'other'"):
        mixed([nets(), nets(name="other", classes=CLASSES[::-1])])


def test_a_member_that_takes_other_images_is_refused():
    preprocessing = Preprocessing(input=ImageInput(height=5, width=6, channels=1), mean=(0.0,), std=(1.0,))
    with pytest.raises(InputMismatch, match="6 x 5 x 1, its member 'other' of 5 x 6 x 1"):
        mixed([nets(), nets(name="other", preprocessing=preprocessing)])


def test_a_member_that_does_not_temper_is_refused():
    with pytest.raises(TeacherDoesNotTemper, match="other"):
        mixed([nets(), nets(name="other", merge="arithmetic")])


def test_images_of_another_size_are_refused():
    with pytest.raises(InputMismatch, match="teacher 'mixed' takes"):
        mixed([nets(), nets()]).member_logits(torch.zeros(1, 5, 6, 1, dtype=torch.uint8))
