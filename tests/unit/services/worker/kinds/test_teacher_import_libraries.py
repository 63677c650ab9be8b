"""Nets of Hugging Face `transformers` and of `timm` become teachers that answer as the library's own do."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from services.worker.stages.importing.nets import need_same_answers, read_transformers
from services.worker.stages.importing.weights import as_float32
from shared.contracts.architectures import Timm, Transformers
from shared.contracts.images import ImageInput
from shared.contracts.teacher_sources import (
    SentFiles,
    TimmSource,
    TransformersSource,
)
from shared.contracts.teachers import Nets
from shared.errors import (
    ArchitectureInvalid,
    ExtraMissing,
    InvalidModelFiles,
    InvalidRequest,
)
from shared.models.checkpoints import net_tensors
from shared.models.foreign import ForeignNet
from shared.models.network import Network
from tests.support.distilling import SHAPES, shapes
from tests.support.importing import Place, of, outcomes


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def hugging_face(folder: Path, family: str, **changes: Any) -> torch.nn.Module:
    """Write a small random net of the library as its owner would, and return it."""
    import transformers as library

    shapes_of = dict(enumerate(SHAPES))
    options: dict[str, Any] = {"id2label": shapes_of, "num_channels": 3} | changes
    torch.manual_seed(0)
    if family == "vit":
        config = library.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16,
            patch_size=8, **options,
        )  # fmt: skip
        net = library.ViTForImageClassification(config)
    else:
        config = library.ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", **options
        )
        net = library.ResNetForImageClassification(config)
    net.save_pretrained(folder)
    return net.eval()


def with_preprocessor(folder: Path, **config: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_a_hugging_face_folder_answers_as_the_library_does(place: Place, family: str):
    folder = place.folder()
    net = hugging_face(folder, family)
    with_preprocessor(
        folder, size={"height": 16, "width": 16}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4],
        resample=3, do_normalize=True, do_rescale=True, rescale_factor=1 / 255,
    )  # fmt: skip
    report = place.take(TransformersSource(files=SentFiles(folder="mine")))
    assert outcomes(report) <= {"ok", "warning"}, report.findings
    teacher = place.store.teachers.current("owl")
    assert isinstance(teacher.model, Nets)
    assert teacher.classes == SHAPES
    seen = teacher.preprocessing
    assert (seen.mean, seen.std, seen.resample) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic")
    assert seen.net == ImageInput(height=16, width=16, channels=3)
    images = shapes(5, 9).images
    pixels = torch.nn.functional.interpolate(
        torch.from_numpy(images).float().movedim(-1, 1), (16, 16), mode="bicubic", antialias=True
    ).clamp(0, 255)
    mean, std = (torch.tensor(of)[:, None, None] for of in (seen.mean, seen.std))
    with torch.inference_mode():
        expected = net((pixels.expand(-1, 3, -1, -1) / 255 - mean) / std).logits
    np.testing.assert_allclose(place.ask("owl", images), expected, atol=1e-4)


def test_a_size_that_the_net_does_not_take_is_told(place: Place):
    hugging_face(place.folder(), "vit")
    with_preprocessor(place.folder(), size=20, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    report = place.take(TransformersSource(files=SentFiles(folder="mine")))
    assert "resizes to 20 x 20, and the net takes 16 x 16" in of(report, "image size").detail
    assert place.store.teachers.current("owl").preprocessing.seen.height == 16


def test_classes_that_are_called_label_0_are_refused_with_how_to_give_them(place: Place):
    hugging_face(place.folder(), "resnet", id2label={number: f"LABEL_{number}" for number in range(4)})
    source = TransformersSource(files=SentFiles(folder="mine"))
    with pytest.raises(InvalidModelFiles, match="LABEL_0") as refused:
        place.take(source)
    assert "`classes`" in refused.value.remedy
    place.take(source.model_copy(update={"classes": SHAPES}))
    assert place.store.teachers.current("owl").classes == SHAPES


def test_weights_without_a_head_are_refused(place: Place):
    folder = place.folder()
    net = hugging_face(folder, "vit")
    rest = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("classifier")}
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidModelFiles, match=r"2 tensors of the net are missing.*classifier"):
        place.take(TransformersSource(files=SentFiles(folder="mine")))


def test_tensors_that_are_no_part_of_the_net_are_told(place: Place):
    net = hugging_face(place.folder(), "resnet")
    more = net.state_dict() | {"teacher_head.weight": torch.zeros(2)}
    save_file(more, place.folder() / "model.safetensors", metadata={"format": "pt"})
    report = place.take(TransformersSource(files=SentFiles(folder="mine")))
    assert "1 are no part of the net and left out: teacher_head.weight" in of(report, "tensors").detail


def test_a_net_whose_configuration_makes_another_one_is_refused(place: Place):
    net = hugging_face(place.folder(), "resnet")
    seen = ImageInput(height=16, width=16, channels=3)
    config = {
        name: value for name, value in net.config.to_dict().items() if name not in ("id2label", "label2id")
    }
    network = Network(Transformers(config=config), seen, 4)
    tensors = as_float32(net_tensors(ForeignNet(net)))
    need_same_answers(net, network, tensors, seen)
    name = next(name for name in tensors if name.endswith("running_mean"))
    tensors[name] = tensors[name] + 0.1
    with pytest.raises(InvalidModelFiles, match="answers otherwise"):
        need_same_answers(net, network, tensors, seen)


def test_a_folder_that_the_library_does_not_read_is_refused_in_its_words(place: Place):
    folder = place.folder()
    hugging_face(folder, "vit")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_act": "no-such-act"}))
    with pytest.raises(InvalidModelFiles, match="transformers does not read it"):
        place.take(TransformersSource(files=SentFiles(folder="mine")))


def test_code_that_a_folder_brings_is_not_run(place: Place):
    folder = place.folder()
    hugging_face(folder, "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "evil.py").write_text("raise SystemExit('run')")
    for evil in (
        {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}},
        {"auto_map": {"AutoModelForImageClassification": "evil.Net"}},
        {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/net", "model_args": {}},
    ):
        (folder / "config.json").write_text(json.dumps(config | evil))
        with pytest.raises(ArchitectureInvalid, match=r"auto_map|model_type"):
            place.take(TransformersSource(files=SentFiles(folder="mine")))
        with pytest.raises(ArchitectureInvalid):  # by itself, too, whoever looked at the folder before
            read_transformers(TransformersSource(), folder, None)


def test_a_library_that_is_missing_is_named(place: Place, monkeypatch: pytest.MonkeyPatch):
    def missing(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("shared.models.extras.importlib.import_module", missing)
    for name, source in (
        ("transformers", TransformersSource(files=SentFiles(folder="mine"))),
        ("timm", TimmSource(files=SentFiles(folder="mine"), model="resnet18")),
    ):
        folder = place.folder()
        save_file({"one": torch.zeros(1)}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "vit"}')
        with pytest.raises(ExtraMissing, match=name):
            place.take(source)


class StandInTimm(ModuleType):
    """As much of `timm` as is asked for; the real one needs a torchvision of this torch."""

    def __init__(self) -> None:
        super().__init__("timm")

    def create_model(self, model: str, **options: Any) -> torch.nn.Module:
        if "img_size" in options:
            raise TypeError("img_size")
        return torch.nn.Sequential(
            torch.nn.Conv2d(options["in_chans"], 4, 3, stride=2), torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(), torch.nn.Linear(4, options["num_classes"]),
        )  # fmt: skip

    def get_pretrained_cfg(self, _model: str) -> Any:
        class Known:
            def to_dict(self) -> dict[str, Any]:
                return {
                    "input_size": [3, 12, 10],
                    "mean": [0.5] * 3,
                    "std": [0.25] * 3,
                    "interpolation": "bicubic",
                }

        return Known()


def test_a_net_of_timm_is_read_with_what_the_library_knows_of_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    library = StandInTimm()
    monkeypatch.setattr("shared.models.extras.importlib.import_module", lambda _name: library)
    torch.manual_seed(0)
    net = library.create_model("tiny", in_chans=3, num_classes=4)
    save_file(net.state_dict(), place.folder() / "model.safetensors")
    place.take(TimmSource(files=SentFiles(folder="mine"), model="tiny", classes=SHAPES))
    teacher = place.store.teachers.current("owl")
    assert teacher.model == Nets(architecture=Timm(model="tiny"))
    seen = teacher.preprocessing
    assert (seen.net, seen.mean, seen.resample) == (
        ImageInput(height=12, width=10, channels=3), (0.5, 0.5, 0.5), "bicubic",
    )  # fmt: skip
    config = place.folder() / "config.json"
    for preset, words in (
        ("none", "does not say what the net sees"),
        ({"input_size": [3, 12]}, "does not say what the net sees"),
        ({"mean": ["x"]}, "does not say what the net sees"),
        ({"input_size": [3, 5000, 12]}, "takes images of 5000 x 12 x 3: rows and columns may be"),
    ):
        config.write_text(json.dumps({"pretrained_cfg": preset}))
        with pytest.raises(InvalidRequest, match=words):
            place.take(TimmSource(files=SentFiles(folder="mine"), model="tiny", classes=SHAPES))
    config.unlink()
    save_file({"other": torch.zeros(2)}, place.folder() / "model.safetensors")
    with pytest.raises(InvalidModelFiles, match=r"net\.0\.bias"):
        place.take(TimmSource(files=SentFiles(folder="mine"), model="tiny", classes=SHAPES))
