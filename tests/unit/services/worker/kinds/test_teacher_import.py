"""A model from outside becomes a teacher, or is refused with the reason; run in this process."""

import json
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from services.worker.kinds.teacher_import import import_teacher
from services.worker.protocol import ChildMessage, ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext
from services.worker.stages.loading import asking, load_teacher
from shared.artefacts.incoming import new_upload
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp, Timm
from shared.contracts.findings import Finding
from shared.contracts.images import ImageInput
from shared.contracts.reports import TeacherCheckReport
from shared.contracts.specs import TeacherImportSpec
from shared.contracts.teacher_sources import (
    EnsembleSource,
    OnnxSource,
    SafetensorsSource,
    SentFiles,
    TimmSource,
    TransformersSource,
)
from shared.contracts.teachers import MixedEnsemble, Nets, OnnxModel
from shared.errors import ExtraMissing, InputMismatch, InvalidModelFiles, ModelUnfit, TeacherUnfit
from shared.models.network import Network
from tests.support.distilling import SHAPES, shapes
from tests.support.onnx_graphs import linear_graph

SIZE = ImageInput(height=6, width=5, channels=1)
NET = Mlp(hidden_units=(16,))


class Place:
    """A store with the dataset `shapes`, and jobs that take models in."""

    def __init__(self, state_dir: Path) -> None:
        self.settings = WorkerSettings(state_dir=state_dir, device="cpu")
        self.store = ArtefactStore(self.settings.store_dir)
        splits = {"train": shapes(400, 1), "validation": shapes(200, 2), "test": shapes(40, 3)}
        self.manifest = self.store.datasets.put("shapes", splits, classes=SHAPES, source="made up")
        self.sent: list[ChildMessage] = []
        self.jobs = 0

    def folder(self, name: str = "mine") -> Path:
        """Return a folder in `incoming`."""
        path = self.store.root / "incoming" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def context(self, spec: TeacherImportSpec) -> JobContext:
        self.jobs += 1
        order = ChildOrder(job_id=f"j-{self.jobs}", epoch=1, attempts=1, spec=spec)
        return JobContext(order, self.settings, self.store, self.sent.append)

    def take(self, source: Any, name: str = "owl", **changes: Any) -> TeacherCheckReport:
        """Import a teacher and return the report; it is there where a check failed, too."""
        spec = TeacherImportSpec(name=name, source=source, **{"dataset": "shapes"} | changes)
        context = self.context(spec)
        with suppress(TeacherUnfit):
            import_teacher(context, spec)
        return TeacherCheckReport.model_validate_json(context.files.report_json.read_bytes())

    def ask(self, name: str, images: np.ndarray) -> np.ndarray:
        """Return what the published teacher says."""
        description = self.store.teachers.current(name)
        context = self.context(TeacherImportSpec(name=name, source=OnnxSource()))
        return asking(context, load_teacher(context, description))(images)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def of(report: TeacherCheckReport, check: str) -> Finding:
    return next(one for one in report.findings if one.check == check)


def outcomes(report: TeacherCheckReport) -> set[str]:
    return {one.outcome for one in report.findings}


def trained(place: Place, network: Network, *, flipped: bool = False) -> dict[str, torch.Tensor]:
    """Return weights that know the shapes: a few steps of Adam on the training images."""
    split = place.store.datasets.load("shapes", "train")
    pixels = torch.from_numpy(np.array(split.images)).float().movedim(-1, 1) / 255
    mean, std = (
        torch.tensor(of)[:, None, None] for of in (place.manifest.pixel_mean, place.manifest.pixel_std)
    )
    images = ((1 - pixels if flipped else pixels) - mean) / std
    labels = torch.from_numpy(np.array(split.labels))
    tensors = {name: t.unsqueeze(0).requires_grad_() for name, t in network.initial(0).items()}
    adam = torch.optim.Adam(tensors.values(), lr=1e-2)
    for _ in range(40):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(network.logits(tensors, images.unsqueeze(0))[0], labels).backward()
        adam.step()
    return {name: tensor.detach()[0].clone() for name, tensor in tensors.items()}


def said(place: Place) -> dict[str, Any]:
    """Return mean, std and classes as an owner gives them."""
    return {"mean": place.manifest.pixel_mean, "std": place.manifest.pixel_std, "classes": SHAPES}


def send_net(place: Place, name: str = "mine", **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    tensors = trained(place, Network(NET, SIZE, 4))
    save_file(tensors | changes, place.folder(name) / "model.safetensors")
    return tensors


def mine(place: Place, **changes: Any) -> SafetensorsSource:
    given = {"files": SentFiles(folder="mine"), "architecture": NET} | said(place)
    return SafetensorsSource(**given | changes)


# --- nets of ours ------------------------------------------------------------------------------------------


def test_weights_of_a_registered_architecture_become_the_teacher_of_the_name(place: Place):
    send_net(place)
    report = place.take(mine(place), claimed_accuracy=0.8)
    assert outcomes(report) <= {"ok", "warning"}, report.findings
    assert report.images > 200
    assert report.accuracy is not None
    assert report.accuracy > 0.8
    teacher = place.store.teachers.current("owl")
    assert teacher.digest == report.teacher_digest
    assert teacher.test_accuracy == report.accuracy
    assert teacher.classes == SHAPES
    assert place.folder().exists()  # a folder belongs to whoever put it there


def test_half_precision_weights_become_float32(place: Place):
    tensors = send_net(place)
    half = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(half, place.folder() / "model.safetensors")
    place.take(mine(place))
    stored = place.store.teachers.load(place.store.teachers.current("owl"))
    for name, tensor in half.items():
        assert stored[name].dtype == np.float32
        np.testing.assert_array_equal(stored[name][0], tensor.float().numpy())


def test_what_was_uploaded_goes_once_the_teacher_is_there_and_stays_where_it_is_not(place: Place):
    upload = new_upload()
    send_net(place, upload)
    sent = SentFiles(upload=upload)
    report = place.take(mine(place, files=sent), claimed_accuracy=1.0)
    assert of(report, "accuracy").outcome == "failed"
    assert place.folder(upload).joinpath("model.safetensors").exists()
    assert place.store.teachers.names() == []
    place.take(mine(place, files=sent), claimed_accuracy=0.5)
    assert not (place.store.root / "incoming" / upload).exists()
    assert place.store.teachers.names() == ["owl"]


def test_tensors_that_are_missing_unknown_or_of_another_shape_are_named(place: Place):
    tensors = send_net(place)
    del tensors["layers.0.bias"]
    tensors["layers.1.weight"] = torch.zeros(4, 7)
    save_file(tensors | {"extra": torch.zeros(1)}, place.folder() / "model.safetensors")
    with pytest.raises(InvalidModelFiles) as refused:
        place.take(mine(place))
    words = str(refused.value)
    assert "1 tensors are missing: layers.0.bias" in words
    assert "1 tensors are not known: extra" in words
    assert "layers.1.weight is 4 x 7 and should be 4 x 16" in words


def test_a_label_file_of_another_length_than_the_logits_is_refused_with_both_numbers(place: Place):
    send_net(place)
    (place.folder() / "labels.txt").write_text("\n".join(SHAPES[:3]))
    with pytest.raises(InvalidModelFiles, match="3 classes are named, and the net answers 4 numbers"):
        place.take(mine(place, classes=None))


def test_logits_that_are_not_finite_fail_the_check_with_their_rows(place: Place):
    """Only images whose first pixel is white overflow."""
    weight = trained(place, Network(NET, SIZE, 4))["layers.0.weight"]
    weight[0] = 0
    weight[0, 0] = 3e38
    send_net(place, **{"layers.0.weight": weight})
    report = place.take(mine(place))
    found = of(report, "logits are finite")
    assert found.outcome == "failed"
    assert "rows: " in found.detail


def test_a_teacher_of_the_dataset_in_negative_is_told(place: Place):
    network = Network(NET, SIZE, 4)
    save_file(trained(place, network, flipped=True), place.folder() / "model.safetensors")
    report = place.take(mine(place))
    found = of(report, "channels and pixels")
    assert found.outcome == "warning"
    assert "with inverted pixels it is right on" in found.detail


def test_the_usual_normalisations_are_tried_where_another_may_be_right(place: Place):
    send_net(place)
    report = place.take(mine(place, mean=(0.0,), std=(1 / 255,)))
    found = of(report, "channels and pixels")
    assert found.outcome == "warning"
    # Both suit a net that was trained with the dataset's own.
    assert found.detail.startswith(
        ("with the dataset's mean and std it is", "with pixels from -1 to 1 it is")
    )


def test_other_class_names_fail_before_anything_is_asked(place: Place):
    send_net(place)
    (place.folder() / "classes.json").write_text(json.dumps(SHAPES[::-1]))
    report = place.take(mine(place, classes=None))
    assert of(report, "class names").outcome == "failed"
    assert report.images == 0
    assert place.store.teachers.names() == []


def test_images_of_another_size_are_brought_to_the_nets(place: Place):
    """A net for 12 x 10 in three colours is asked about grey images of 6 x 5."""
    big = ImageInput(height=12, width=10, channels=3)
    path = linear_graph(place.folder() / "model.onnx", size=big)
    report = place.take(OnnxSource(files=SentFiles(folder="mine"), classes=SHAPES))
    assert of(report, "input size").detail == "images of 6 x 5 x 1 are brought to 12 x 10 x 3 (bilinear)"
    preprocessing = place.store.teachers.current("owl").preprocessing
    assert (preprocessing.input, preprocessing.net) == (SIZE, big)
    assert path.exists()


def test_a_net_of_two_channels_cannot_be_asked_about_grey_images(place: Place):
    linear_graph(place.folder() / "model.onnx", size=ImageInput(height=6, width=5, channels=4))
    with pytest.raises(InputMismatch, match="4 channels"):
        place.take(OnnxSource(files=SentFiles(folder="mine"), classes=SHAPES))


def test_without_a_dataset_made_up_images_are_asked_about(place: Place):
    send_net(place)
    report = place.take(mine(place, input=SIZE), dataset=None)
    assert of(report, "accuracy").outcome == "skipped"
    assert place.store.teachers.current("owl").test_accuracy is None


def test_a_job_that_is_run_again_ends_the_same_though_its_upload_is_gone(place: Place):
    upload = new_upload()
    send_net(place, upload)
    spec = TeacherImportSpec(name="owl", source=mine(place, files=SentFiles(upload=upload)), dataset="shapes")
    context = place.context(spec)
    assert import_teacher(context, spec) == import_teacher(context, spec)


# --- graphs ------------------------------------------------------------------------------------------------


def onnx(**changes: Any) -> OnnxSource:
    return OnnxSource(files=SentFiles(folder="mine"), classes=SHAPES, **changes)


def test_a_graph_is_described_as_it_says(place: Place):
    linear_graph(place.folder() / "model.onnx", layout="NHWC")
    place.take(onnx())
    model = place.store.teachers.current("owl").model
    assert isinstance(model, OnnxModel)
    assert (model.layout, model.datatype) == ("NHWC", "float32")


def test_probabilities_handed_in_as_logits_fail_and_are_taken_as_what_they_are(place: Place):
    linear_graph(place.folder() / "model.onnx", probabilities=True)
    found = of(place.take(onnx()), "logits, not probabilities")
    assert found.outcome == "failed"
    assert "answers: probabilities" in found.advice
    report = place.take(onnx(answers="probabilities"))
    assert of(report, "logits, not probabilities").outcome == "ok"
    assert place.store.teachers.names() == ["owl"]


def test_a_graph_that_cannot_be_asked_is_refused_with_the_cause(place: Place):
    linear_graph(place.folder() / "model.onnx", inputs=2)
    with pytest.raises(ModelUnfit, match="takes 2"):
        place.take(onnx())
    linear_graph(place.folder() / "model.onnx", operator="Conjure")
    with pytest.raises(InvalidModelFiles, match="Conjure"):
        place.take(onnx())


def test_a_graph_that_takes_pixels_normalises_by_itself(place: Place):
    linear_graph(place.folder() / "model.onnx", datatype="uint8")
    report = place.take(onnx())
    assert of(report, "normalisation").outcome == "skipped"
    assert not [one for one in report.findings if one.check == "mean and std"]


def test_what_nothing_says_of_mean_and_std_is_warned_of(place: Place):
    linear_graph(place.folder() / "model.onnx")
    assert of(place.take(onnx()), "mean and std").outcome == "warning"


# --- several together --------------------------------------------------------------------------------------


def test_an_ensemble_of_a_net_and_a_graph_answers_their_mean(place: Place):
    send_net(place)
    place.take(mine(place), "net")
    linear_graph(place.folder() / "model.onnx")
    place.take(onnx(), "graph")
    report = place.take(EnsembleSource(members=("net", "graph")), "both")
    assert outcomes(report) <= {"ok", "warning", "skipped"}
    both = place.store.teachers.current("both")
    assert isinstance(both.model, MixedEnsemble)
    assert [one.digest for one in both.model.members] == [
        place.store.teachers.current(name).digest for name in ("net", "graph")
    ]
    images = shapes(7, 5).images
    centred = [
        one - one.mean(1, keepdims=True) for one in (place.ask("net", images), place.ask("graph", images))
    ]
    np.testing.assert_allclose(place.ask("both", images), np.mean(centred, 0), atol=1e-5)


# --- other libraries ---------------------------------------------------------------------------------------


def hugging_face(folder: Path, family: str, **changes: Any) -> torch.nn.Module:
    """Write a small random net of the library as its owner would, and return it."""
    library = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
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


def test_a_folder_that_the_library_does_not_read_is_refused_in_its_words(place: Place):
    folder = place.folder()
    hugging_face(folder, "vit")
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-net"}))
    with pytest.raises(InvalidModelFiles, match="transformers does not read it"):
        place.take(TransformersSource(files=SentFiles(folder="mine")))


def test_code_that_a_folder_brings_is_not_run(place: Place):
    folder = place.folder()
    hugging_face(folder, "vit")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(InvalidModelFiles, match="transformers does not read it"):
        place.take(TransformersSource(files=SentFiles(folder="mine")))


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
        (folder / "config.json").write_text("{}")
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
    save_file({"other": torch.zeros(2)}, place.folder() / "model.safetensors")
    with pytest.raises(InvalidModelFiles, match=r"net\.0\.bias"):
        place.take(TimmSource(files=SentFiles(folder="mine"), model="tiny", classes=SHAPES))
