"""A model from outside becomes a teacher, or is refused with the reason; run in this process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from services.worker.kinds.teacher_import import import_teacher
from shared.artefacts.incoming import new_upload
from shared.contracts.images import ImageInput
from shared.contracts.specs import TeacherImportSpec
from shared.contracts.teacher_sources import (
    EnsembleSource,
    OnnxSource,
    SentFiles,
)
from shared.contracts.teachers import MixedEnsemble, OnnxModel
from shared.errors import (
    InputMismatch,
    InvalidModelFiles,
    ModelUnfit,
)
from shared.models.network import Network
from tests.support.distilling import SHAPES, shapes
from tests.support.importing import NET, SIZE, Place, mine, of, outcomes, send_net, trained
from tests.support.onnx_graphs import linear_graph


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


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


def test_a_net_of_four_channels_cannot_be_asked_about_grey_images(place: Place):
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
