"""Student bundles made by hand with onnx.helper, so that serving is tested without training anything."""

import hashlib
import itertools
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from shared.contracts.architectures import Mlp
from shared.contracts.evaluation import Comparison, Evaluation, SeedComparison, Verdict
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.specialists import Combination, SpecialistPart
from shared.contracts.students import BundleFile, StudentCard
from shared.contracts.training import Objective

DIGITS = tuple(str(digit) for digit in range(10))
DIGIT_INPUT = ImageInput(height=28, width=28, channels=1)


def mlp_onnx(
    image: ImageInput = DIGIT_INPUT,
    classes: int = 10,
    hidden: tuple[int, ...] = (16,),
    *,
    seed: int = 0,
    favourite: int | None = None,
    temperature: float = 1.0,
) -> bytes:
    """Return a perceptron with random weights; `favourite` is a class that it always names.

    A `temperature` other than 1 makes the probabilities disagree with the logits.
    """
    generator = np.random.default_rng(seed)
    sizes = (image.values, *hidden, classes)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["layer_0"]),
    ]
    weights = {
        "scale": np.array(255.0, np.float32),
        "shape": np.array([-1, image.values], np.int64),
        "t": np.array(temperature, np.float32),
    }
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weights[f"w_{i}"] = generator.normal(0, fan_in**-0.5, (fan_in, fan_out)).astype(np.float32)
        weights[f"b_{i}"] = np.zeros(fan_out, np.float32)
        last = i == len(sizes) - 2
        if last and favourite is not None:
            weights[f"b_{i}"][favourite] = 100.0
        out = "logits" if last else f"sum_{i}"
        nodes.append(helper.make_node("Gemm", [f"layer_{i}", f"w_{i}", f"b_{i}"], [out]))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"layer_{i + 1}"]))
    nodes.append(helper.make_node("Div", ["logits", "t"], ["tempered"]))
    nodes.append(helper.make_node("Softmax", ["tempered"], ["probabilities"], axis=-1))
    graph = helper.make_graph(
        nodes,
        "student",
        [
            helper.make_tensor_value_info(
                "images", TensorProto.UINT8, ["batch", image.height, image.width, image.channels]
            )
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes])
            for name in ("logits", "probabilities")
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def card(
    version: str,
    model: bytes,
    *,
    classes: tuple[str, ...] = DIGITS,
    image: ImageInput = DIGIT_INPUT,
    hidden: tuple[int, ...] = (16,),
) -> StudentCard:
    """Return a card that is right about the files and the shapes, and made up where figures stand."""
    nobody = "0" * 64
    evaluation = Evaluation(
        examples=10, errors=1, accuracy=0.9, accuracy_interval=(0.6, 0.98), nll=0.3, brier=0.1, ece=0.05,
        reliability=(), errors_by_class={}, confusion=(),
    )  # fmt: skip
    comparison = Comparison(
        verdict=Verdict.INCONCLUSIVE, gain=0.0, interval=(-0.01, 0.01), p_value=0.9, degrees_of_freedom=2.0,
        margin=0.001, method="made up",
        seeds=(SeedComparison(seed=0, taught_accuracy=0.9, untaught_accuracy=0.9, taught_agreement=0.9),),
    )  # fmt: skip
    return StudentCard(
        version=version, name="digits", job_id="job-1", created_at=datetime(2026, 11, 21, tzinfo=UTC),
        classes=classes,
        preprocessing=Preprocessing(input=image, mean=(0.0,) * image.channels, std=(1.0,) * image.channels),
        architecture=Mlp(hidden_units=hidden), parameters=1, teacher="digits-teacher", teacher_digest=nobody,
        teacher_parameters=2, dataset="mnist-5k", dataset_digest=nobody, transfer_set_digest=nobody,
        objective=Objective(), seed=0, evaluation=evaluation, comparison=comparison, latency=(),
        onnx_largest_difference=0.0,
        files={"model.onnx": BundleFile(sha256=hashlib.sha256(model).hexdigest(), size_bytes=len(model))},
    )  # fmt: skip


def write_bundle(directory: Path, version: str, model: bytes | None = None, **facts: object) -> StudentCard:
    """Write `card.json` and `model.onnx` into a directory that is there, and return the card."""
    model = mlp_onnx() if model is None else model
    described = card(version, model, **facts)  # type: ignore[arg-type]
    (directory / "model.onnx").write_bytes(model)
    (directory / "card.json").write_text(described.model_dump_json())
    return described


EXPERTS = Combination(
    top_n=1,
    specialists=(
        SpecialistPart(classes=("1", "7")),
        SpecialistPart(classes=("3", "5", "8"), dustbin=False),
        SpecialistPart(classes=("4", "7", "9")),
    ),
)


def write_ensemble(
    directory: Path,
    version: str = "experts-1",
    *,
    samples: tuple[np.ndarray, np.ndarray] | None = None,
    gain: float = 0.01,
) -> StudentCard:
    """Write the bundle of a generalist with specialists, all random; `gain` is what its card claims."""
    contents = {"generalist.onnx": mlp_onnx(seed=0)}
    for number, part in enumerate(EXPERTS.specialists):
        contents[f"specialist-{number:02d}.onnx"] = mlp_onnx(classes=part.answers(10), seed=1 + number)
    if samples is not None:
        images, probabilities = samples
        contents["samples.safetensors"] = save({"images": images, "probabilities": probabilities})
    plain = card(version, contents["generalist.onnx"])
    described = plain.model_copy(
        update={
            "specialists": EXPERTS,
            "comparison": plain.comparison.model_copy(update={"gain": gain}),
            "files": {
                name: BundleFile(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
                for name, content in contents.items()
            },
        }
    )
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    (directory / "card.json").write_text(described.model_dump_json())
    return described
