"""A bundle whose served graph was chosen at export."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save

from shared.contracts.served_graphs import GraphChoice, GraphFigures
from shared.contracts.students import BundleFile, StudentCard
from shared.errors import StudentUnusable
from shared.serving.graph import Graph
from shared.serving.session import StudentSession
from tests.support.student_bundles import card, mlp_onnx

SERVED = "model-int8-static.onnx"


def noise(images: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (images, 28, 28, 1), dtype=np.uint8)


def answers(model: bytes) -> np.ndarray:
    return Graph("v", "g", model, threads=1).probabilities(noise(8))


def write(folder: Path, *, served: bytes, sampled: bytes | None = None) -> bytes:
    """Write a bundle with two graphs that answer differently, and return the float32 one."""
    reference = mlp_onnx(seed=0)
    sampled = served if sampled is None else sampled
    samples = {"images": noise(8), "probabilities": answers(sampled), "reference": answers(reference)}
    contents = {"model.onnx": reference, SERVED: served, "samples.safetensors": save(samples)}
    described = card("digits-1", reference).model_copy(
        update={
            "files": {
                name: BundleFile(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
                for name, content in contents.items()
            },
            "graphs": GraphChoice(
                file=SERVED, cpu="Abacus", runtime="ONNX Runtime", images=300,
                calibration_images=100, seconds=1.0,
                candidates=(GraphFigures(name="int8-static", served=True, reason="quicker"),),
            ),
        }
    )  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "card.json").write_text(described.model_dump_json())
    return reference


def test_the_graph_that_was_chosen_answers(tmp_path):
    served = mlp_onnx(seed=1)
    write(tmp_path, served=served)
    student = StudentSession.load(tmp_path)
    np.testing.assert_allclose(student.probabilities(noise(8)), answers(served), atol=1e-6)


def test_a_chosen_graph_that_answers_otherwise_here_gives_way_to_float32_and_is_told(tmp_path, caplog):
    reference = write(tmp_path, served=mlp_onnx(seed=1), sampled=mlp_onnx(seed=2))
    with caplog.at_level(logging.WARNING):
        student = StudentSession.load(tmp_path)
    np.testing.assert_allclose(student.probabilities(noise(8)), answers(reference), atol=1e-6)
    (record,) = caplog.records
    assert (record.version, record.graph) == ("digits-1", SERVED)
    assert "as it did at export" in record.reason


def test_a_chosen_graph_that_this_runtime_cannot_load_gives_way_to_float32(tmp_path):
    reference = write(tmp_path, served=b"of a later runtime", sampled=mlp_onnx(seed=1))
    student = StudentSession.load(tmp_path)
    np.testing.assert_allclose(student.probabilities(noise(8)), answers(reference), atol=1e-6)


def test_a_damaged_chosen_graph_is_refused_as_any_damaged_file(tmp_path):
    write(tmp_path, served=mlp_onnx(seed=1))
    (tmp_path / SERVED).write_bytes(mlp_onnx(seed=2))
    with pytest.raises(StudentUnusable, match="digest"):
        StudentSession.load(tmp_path)


def test_samples_that_neither_graph_answers_so_are_a_refusal(tmp_path):
    write(tmp_path, served=mlp_onnx(seed=1), sampled=mlp_onnx(seed=2))
    described = StudentCard.model_validate_json((tmp_path / "card.json").read_bytes())
    wrong = save(
        {
            "images": noise(8),
            "probabilities": answers(mlp_onnx(seed=2)),
            "reference": answers(mlp_onnx(seed=3)),
        }
    )
    file = BundleFile(sha256=hashlib.sha256(wrong).hexdigest(), size_bytes=len(wrong))
    (tmp_path / "samples.safetensors").write_bytes(wrong)
    changed = described.model_copy(update={"files": {**described.files, "samples.safetensors": file}})
    (tmp_path / "card.json").write_text(changed.model_dump_json())
    with pytest.raises(StudentUnusable, match="as it did at export"):
        StudentSession.load(tmp_path)


def test_a_card_lists_the_graph_that_is_served(tmp_path):
    write(tmp_path, served=mlp_onnx(seed=1))
    described = StudentCard.model_validate_json((tmp_path / "card.json").read_bytes()).model_dump(mode="json")
    del described["files"][SERVED]
    with pytest.raises(ValidationError, match="none of the files"):
        StudentCard.model_validate(described)
