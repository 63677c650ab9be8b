from pathlib import Path

import numpy as np
import pytest

from shared.contracts.images import ImageInput
from shared.errors import InputMismatch, StudentUnusable
from shared.serving.session import StudentSession
from tests.support.student_bundles import mlp_onnx, write_bundle


def bundle(directory: Path, model: bytes | None = None, **facts: object) -> Path:
    write_bundle(directory, "digits-1", model, **facts)
    return directory


def noise(images: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (images, 28, 28, 1), dtype=np.uint8)


def test_a_student_answers_softmax_of_its_logits_in_the_order_of_the_images(tmp_path):
    student = StudentSession.load(bundle(tmp_path))
    images = noise(5)
    logits, probabilities = student.run(images)
    raised = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(probabilities, raised / raised.sum(1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(student.probabilities(images[2:3])[0], probabilities[2], rtol=1e-4)


def test_a_student_knows_its_version_classes_and_how_long_an_image_takes(tmp_path):
    student = StudentSession.load(bundle(tmp_path))
    assert (student.version, student.classes[7]) == ("digits-1", "7")
    assert 0 < student.seconds_per_image < 1


def test_a_student_refuses_images_of_another_size(tmp_path):
    student = StudentSession.load(bundle(tmp_path))
    with pytest.raises(InputMismatch, match="28 x 28 x 1"):
        student.probabilities(np.zeros((1, 32, 32, 3), np.uint8))


def test_a_student_refuses_floats(tmp_path):
    student = StudentSession.load(bundle(tmp_path))
    with pytest.raises(InputMismatch, match="float32"):
        student.probabilities(np.zeros((1, 28, 28, 1), np.float32))


def refusal(directory: Path) -> str:
    with pytest.raises(StudentUnusable) as caught:
        StudentSession.load(directory)
    return caught.value.reason


def test_a_bundle_without_a_card_is_not_used(tmp_path):
    assert "card.json" in refusal(tmp_path)


def test_a_bundle_whose_card_is_no_card_is_not_used(tmp_path):
    bundle(tmp_path)
    (tmp_path / "card.json").write_text('{"version": "digits-1"}')
    assert "card.json" in refusal(tmp_path)


def test_a_bundle_without_a_model_is_not_used(tmp_path):
    bundle(tmp_path)
    (tmp_path / "model.onnx").unlink()
    assert "model.onnx" in refusal(tmp_path)


def test_a_bundle_with_one_flipped_bit_is_not_used(tmp_path):
    model = bytearray((bundle(tmp_path) / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(model)
    assert "digest" in refusal(tmp_path)


def test_a_bundle_that_is_no_onnx_is_not_used(tmp_path):
    assert "does not load" in refusal(bundle(tmp_path, b"not a graph"))


def test_a_graph_for_other_images_than_the_card_says_is_not_used(tmp_path):
    other = mlp_onnx(ImageInput(height=8, width=8, channels=1))
    assert "does not run" in refusal(bundle(tmp_path, other))


def test_a_graph_with_fewer_classes_than_the_card_is_not_used(tmp_path):
    assert "10 classes" in refusal(bundle(tmp_path, mlp_onnx(classes=9)))


def test_a_graph_that_does_not_answer_at_t_1_is_not_used(tmp_path):
    assert "T = 1" in refusal(bundle(tmp_path, mlp_onnx(temperature=4.0)))
