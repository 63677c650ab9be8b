"""A generalist with specialists as a student in memory."""

from pathlib import Path

import numpy as np
import pytest

from shared.errors import InputMismatch, StudentUnusable
from shared.models.combine import combined_logits, covered
from shared.serving.graph import Graph
from shared.serving.session import StudentSession
from tests.support.student_bundles import DIGITS, EXPERTS, write_ensemble


def noise(images: int) -> np.ndarray:
    """Coarse noise: a random net calls images of fine noise all the same."""
    coarse = np.random.default_rng(1).integers(0, 256, (images, 2, 2, 1), dtype=np.uint8)
    return coarse.repeat(14, axis=1).repeat(14, axis=2)


def by_hand(directory: Path, images: np.ndarray) -> np.ndarray:
    """Return the combined probabilities, every net asked about one image after another."""

    def logits(name: str, image: np.ndarray) -> np.ndarray:
        return Graph("v", name, (directory / f"{name}.onnx").read_bytes(), threads=1).logits(image)

    answers = []
    for image in images[:, None]:
        z = combined_logits(
            logits("generalist", image),
            covered(EXPERTS, DIGITS),
            lambda number, rows, image=image: logits(f"specialist-{number:02d}", image),
            top_n=1,
        )
        raised = np.exp(z.astype(np.float64))
        answers.append(raised[0] / raised.sum())
    return np.stack(answers)


def refusal(directory: Path) -> str:
    with pytest.raises(StudentUnusable) as caught:
        StudentSession.load(directory)
    return caught.value.reason


def test_an_ensemble_answers_its_combination_for_a_batch_as_for_each_image_alone(tmp_path):
    write_ensemble(tmp_path)
    student = StudentSession.load(tmp_path)
    images = noise(60)
    expected = by_hand(tmp_path, images)
    np.testing.assert_allclose(student.probabilities(images), expected, atol=1e-5)
    generalist = Graph("v", "g", (tmp_path / "generalist.onnx").read_bytes(), threads=1)
    changed = np.abs(generalist.probabilities(images) - expected).max(1) > 0.01
    assert 10 <= changed.sum() <= 50  # some are asked of specialists, some of the generalist alone
    assert 0 < student.seconds_per_image < 1


def test_an_ensemble_refuses_images_of_another_size(tmp_path):
    write_ensemble(tmp_path)
    with pytest.raises(InputMismatch):
        StudentSession.load(tmp_path).probabilities(np.zeros((1, 8, 8, 1), np.uint8))


def test_an_ensemble_that_lacks_a_specialist_is_not_used(tmp_path):
    write_ensemble(tmp_path)
    (tmp_path / "specialist-01.onnx").unlink()
    assert "specialist-01.onnx" in refusal(tmp_path)


def test_an_ensemble_with_the_specialists_swapped_is_not_used(tmp_path):
    card = write_ensemble(tmp_path)
    files = dict(card.files)
    files["specialist-00.onnx"] = card.files["specialist-01.onnx"]
    (tmp_path / "specialist-00.onnx").write_bytes((tmp_path / "specialist-01.onnx").read_bytes())
    (tmp_path / "card.json").write_text(card.model_copy(update={"files": files}).model_dump_json())
    assert "specialist-00.onnx does not answer 3 finite logits" in refusal(tmp_path)


def test_an_ensemble_that_answers_its_samples_as_the_trained_nets_did_is_used(tmp_path):
    write_ensemble(tmp_path)
    images = noise(5)
    probabilities = by_hand(tmp_path, images).astype(np.float32)
    write_ensemble(tmp_path, samples=(images, probabilities))
    StudentSession.load(tmp_path)


def test_an_ensemble_that_answers_its_samples_otherwise_is_not_used(tmp_path):
    write_ensemble(tmp_path)
    images = noise(5)
    other = by_hand(tmp_path, images)[:, ::-1].astype(np.float32)
    write_ensemble(tmp_path, samples=(images, np.ascontiguousarray(other)))
    assert "samples.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize(
    "images",
    [np.zeros((0, 28, 28, 1), np.uint8), np.zeros((2, 28), np.uint8), np.zeros((1, 8, 8, 1), np.uint8)],
)
def test_samples_that_are_no_images_for_the_student_are_told_apart(tmp_path, images):
    write_ensemble(tmp_path, samples=(images, np.zeros((len(images), 10), np.float32)))
    assert "images" in refusal(tmp_path)
