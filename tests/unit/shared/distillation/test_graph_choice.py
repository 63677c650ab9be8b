"""Which graph of a student is served."""

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from shared.artefacts.tensors import read_tensors
from shared.contracts.architectures import Cnn, Mlp
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.served_graphs import GraphFigures, GraphTiming
from shared.distillation import graph_choice
from shared.distillation.export import choose_served_graph, export_onnx, parity
from shared.distillation.graph_choice import LEAST_IMAGES, choose_graph
from shared.distillation.onnx_graphs import folded_graph
from shared.distillation.serving_graphs import candidates
from shared.models.checkpoints import load_into
from shared.models.network import Network
from shared.models.normalise import normalise

PREPROCESSING = Preprocessing(
    input=ImageInput(height=5, width=4, channels=3), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
)
CLASSES = ("ant", "bee", "Käfer")
NAMES = ("folded", "float16", "int8-dynamic", "int8-static", "int8-weights")


def images(rows: int, seed: int = 0) -> np.ndarray:
    """Red, green and blue ones in turn: the brightest channel is the class."""
    pixels = np.random.default_rng(seed).integers(0, 100, (rows, 5, 4, 3), dtype=np.uint8)
    pixels[np.arange(rows), ..., labels(rows)] += 150
    return pixels


def labels(rows: int) -> np.ndarray:
    return np.arange(rows) % 3


@cache
def student(architecture=Mlp(hidden_units=(32, 16))) -> torch.nn.Module:  # noqa: B008 - frozen
    """A net that has learned the colours."""
    network = Network(architecture, PREPROCESSING.input, len(CLASSES))
    module = load_into(network.module(), network.initial(0)).requires_grad_(True)
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    seen, truth = normalise(torch.from_numpy(images(90, 1)), PREPROCESSING), torch.from_numpy(labels(90))
    for _ in range(9):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(seen), truth).backward()
        optimiser.step()
    return module.requires_grad_(False)


@pytest.fixture
def exported(tmp_path):
    export_onnx(student(), PREPROCESSING, CLASSES, tmp_path / "model.onnx")
    return tmp_path


def folded() -> onnx.ModelProto:
    return folded_graph(student(), PREPROCESSING, CLASSES)


def timed(monkeypatch, **speedups: tuple[float, float]) -> None:
    """Let the clock say how quick each candidate is at batch 1 and 8; those not named are as quick."""

    def say(measured, _images):
        for one in measured:
            found = speedups.get(one.name.replace("-", "_"), (1.0, 1.0))
            timings = tuple(
                GraphTiming(batch=b, cpu_ms=1 / s, speedup=s) for b, s in zip((1, 8), found, strict=True)
            )
            one.figures = one.figures.model_copy(update={"timings": timings})

    monkeypatch.setattr(graph_choice, "_time", say)


def chosen(folder, rows=400):
    return choose_graph(folder, folded(), images(rows), labels(rows))


def of(choice, name):
    return next(one for one in choice.candidates if one.name == name)


def test_the_quickest_graph_that_agrees_is_served_and_lies_beside_the_float32_one(exported, monkeypatch):
    timed(monkeypatch, folded=(1.3, 1.2), int8_static=(3.0, 2.0))
    choice = chosen(exported)
    assert choice.file == "model-int8-static.onnx"
    assert sorted(path.name for path in exported.iterdir()) == ["model-int8-static.onnx", "model.onnx"]
    assert [one.name for one in choice.candidates if one.served] == ["int8-static"]
    assert "but int8-static 2.45 times" in of(choice, "folded").reason
    assert of(choice, "int8-static").size_bytes == (exported / choice.file).stat().st_size


def test_without_a_clear_win_float32_stays(exported, monkeypatch):
    timed(monkeypatch, folded=(1.1, 1.1), int8_static=(2.0, 0.9))
    choice = chosen(exported)
    assert choice.file == "model.onnx"
    assert [path.name for path in exported.iterdir()] == ["model.onnx"]
    assert of(choice, "float32").served
    assert "1.10 times" in of(choice, "folded").reason
    assert "0.95 at each batch size" in of(choice, "int8-static").reason


def test_a_quicker_graph_that_names_other_classes_is_refused(exported, monkeypatch):
    timed(monkeypatch, folded=(9.0, 9.0))
    other = load_into(
        (network := Network(Mlp(hidden_units=(32, 16)), PREPROCESSING.input, 3)).module(), network.initial(7)
    )
    choice = choose_graph(exported, folded_graph(other, PREPROCESSING, CLASSES), images(400), None)
    assert choice.file == "model.onnx"
    assert "another class than float32" in of(choice, "folded").reason
    assert of(choice, "folded").same_class < 0.9
    assert of(choice, "folded").kl_nats > 0.01


def test_a_graph_whose_answer_depends_on_its_neighbours_is_refused_however_quick(exported, monkeypatch):
    timed(monkeypatch, int8_dynamic=(9.0, 9.0))
    choice = chosen(exported)
    assert choice.file == "model.onnx"
    assert "depends on the others in the batch" in of(choice, "int8-dynamic").reason
    assert of(choice, "int8-dynamic").batch_difference > 1e-4
    assert of(choice, "int8-static").batch_difference == 0


def test_losing_labels_that_float32_knows_counts_by_images():
    logits = np.eye(3, dtype=np.float32)[np.arange(1000) % 3] * 5
    worse = logits.copy()
    worse[:3] = np.roll(worse[:3], 1, axis=1)

    class Session(onnxruntime.InferenceSession):
        def __init__(self):
            """Answers by the first pixel."""

        def run(self, names, given):
            rows = given["images"][:, 0, 0, 0].astype(int)
            answer = logits[rows]
            raised = np.exp(answer.astype(np.float64))
            return [raised / raised.sum(1, keepdims=True) if names == ["probabilities"] else answer]

    pixels = np.zeros((1000, 5, 4, 3), np.uint8)
    for found, spoken in ((worse, "right on 3 images fewer"), (logits, "")):
        figures = GraphFigures(name="folded", reason="")
        one = graph_choice._Candidate("folded", b"", Session(), figures)
        graph_choice._check(one, pixels, found, labels(1000), logits)
        assert spoken in one.figures.reason
        assert bool(spoken) == bool(one.figures.reason)
    assert one.figures.accuracy == 1


def test_few_validation_images_leave_float32_and_say_why(exported):
    choice = chosen(exported, rows=LEAST_IMAGES)
    assert (choice.file, choice.images) == ("model.onnx", 0)
    assert "too few" in choice.candidates[0].reason


def test_calibration_and_check_share_no_image():
    for rows in (267, 500, 10_000):
        calibration, held_out = graph_choice._shared_out(rows, 1e-4)
        assert not set(calibration) & set(held_out)
        assert len(held_out) >= LEAST_IMAGES
    assert len(graph_choice._shared_out(10_000, 0.02)[1]) == 500  # ten seconds of a slow net


def test_the_times_are_measured_in_turns_on_this_machine(exported):
    choice = chosen(exported)
    assert [one.name for one in choice.candidates] == ["float32", *NAMES]
    for one in choice.candidates:
        assert [timing.batch for timing in one.timings] == [1, 8]
        assert all(timing.cpu_ms > 0 and timing.speedup > 0 for timing in one.timings)
        assert one.accuracy is not None
        assert one.reason
    assert of(choice, "float32").timings[0].speedup == 1
    assert (choice.images, choice.calibration_images) == (300, 100)
    assert choice.seconds < 30
    assert choice.cpu


def test_candidates_are_the_same_bytes_for_the_same_student(exported):
    model = onnx.load(exported / "model.onnx")
    first, again = (candidates(model, folded(), images(64)) for _ in range(2))
    for name in NAMES:
        assert first[name].SerializeToString(deterministic=True) == again[name].SerializeToString(
            deterministic=True
        )
        assert first[name].metadata_props == model.metadata_props


def test_folding_the_normalisation_answers_as_torch_does(tmp_path):
    (tmp_path / "folded.onnx").write_bytes(folded().SerializeToString())
    pixels = torch.randint(
        0, 256, (50, 5, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    assert parity(tmp_path / "folded.onnx", student(), PREPROCESSING, pixels) < 1e-4
    kinds = [node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node]
    assert kinds == ["Cast", "Flatten", "Gemm", "Relu", "Gemm", "Relu", "Gemm", "Softmax"]


def test_half_precision_rounds_neither_logits_nor_probabilities_once_more(exported):
    model = candidates(onnx.load(exported / "model.onnx"), None, images(16))["float16"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images(40)})
    np.testing.assert_allclose(probabilities, torch.from_numpy(logits).softmax(-1), rtol=1e-5)
    assert not np.array_equal(logits, logits.astype(np.float16).astype(np.float32))


def test_what_the_tools_cannot_make_is_told_and_the_rest_is_chosen_from(exported, monkeypatch):
    def fails(*_given, **_named):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("shared.distillation.serving_graphs.quantize_static", fails)
    timed(monkeypatch, folded=(2.0, 2.0))
    choice = chosen(exported)
    assert choice.file == "model-folded.onnx"
    assert of(choice, "int8-static").reason == "could not be made: RuntimeError: no such operator"
    assert of(choice, "int8-static").size_bytes is None


def test_convolutions_run_in_8_bits_and_the_last_layer_does_not(tmp_path):
    module = student(Cnn(channels=(4, 6, 8), hidden_units=7))
    export_onnx(module, PREPROCESSING, CLASSES, tmp_path / "model.onnx")
    made = candidates(onnx.load(tmp_path / "model.onnx"), None, images(64))
    model = made["int8-static"]
    assert "folded" not in made
    by_output = {output: node.op_type for node in model.graph.node for output in node.output}
    weighty = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    from_8_bits = [by_output.get(node.input[1]) == "DequantizeLinear" for node in weighty]
    assert from_8_bits == [True, True, True, True, False]


def test_samples_are_what_the_served_graph_and_the_float32_one_answer(exported, monkeypatch):
    timed(monkeypatch, int8_static=(3.0, 3.0))
    pixels = images(400)
    choice = choose_served_graph(exported, student(), PREPROCESSING, CLASSES, pixels, None)
    samples, _ = read_tensors(exported / "samples.safetensors")
    np.testing.assert_array_equal(samples["images"], pixels[:32])
    for name, file in (("probabilities", choice.file), ("reference", "model.onnx")):
        session = onnxruntime.InferenceSession(exported / file, providers=["CPUExecutionProvider"])
        (found,) = session.run(["probabilities"], {"images": pixels[:32]})
        np.testing.assert_allclose(samples[name], found, atol=1e-6)
    assert np.abs(samples["probabilities"] - samples["reference"]).max() > 1e-5
