"""Bringing a teacher: what the gateway takes in, what it refuses, and what it leaves behind."""

import io
import json
import os
import pickle
import time
import zipfile
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from services.gateway.uploads.datasets import clear_old_uploads
from shared.artefacts.incoming import KEPT_S, Incoming, new_upload
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.specs import TeacherCheckSpec, TeacherImportSpec
from shared.contracts.teacher_sources import SentFiles
from shared.contracts.teachers import Nets
from shared.errors import JobStoreUnavailable
from tests.support.gateway_in_process import InProcessGateway, image_file, refused
from tests.support.jobs import teacher_description

WEIGHTS = save({"w": np.zeros((4, 4), np.float32)})
FOLDER = {"config.json": b'{"model_type": "vit"}', "model.safetensors": WEIGHTS}
ONNX = {"kind": "onnx"}
TRANSFORMERS = {"kind": "transformers"}
JSON = {"Content-Type": "application/json"}


def order(source: dict[str, Any], **fields: object) -> bytes:
    return json.dumps({"name": "net", "source": source, **fields}).encode()


def send(gateway: InProcessGateway, source: dict[str, Any], files: dict[str, bytes], **fields: object) -> Any:
    parts = [("files", (name, data)) for name, data in files.items()]
    return gateway.client.post("/v1/teachers", data={"teacher": order(source, **fields)}, files=parts)


def say(gateway: InProcessGateway, source: dict[str, Any], **fields: object) -> Any:
    return gateway.client.post("/v1/teachers", content=order(source, **fields), headers=JSON)


def job_of(gateway: InProcessGateway, answer: Any) -> TeacherImportSpec:
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    spec = gateway.jobs.get(answer.json()["id"]).spec
    assert isinstance(spec, TeacherImportSpec)
    return spec


def incoming(gateway: InProcessGateway) -> Incoming:
    return Incoming(gateway.store.root / "incoming")


def left(gateway: InProcessGateway) -> list[str]:
    """What lies in the store of uploads, half or whole."""
    return [
        path.name for folder in ("uploads", "incoming") for path in (gateway.store.root / folder).glob("*")
    ]


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.fixture
def dataset(gateway: InProcessGateway) -> str:
    images = {f"{name}/{i}.png": image_file(seed=i) for name in ("round", "square") for i in range(12)}
    form = {"data": {"name": "shapes"}, "files": [("files", ("shapes.zip", zipped(images)))]}
    assert gateway.client.post("/v1/datasets", **form).status_code == 201
    return "shapes"


def publish(gateway: InProcessGateway, name: str, classes: tuple[str, ...], side: int = 28) -> None:
    described = teacher_description(name=name, classes=classes)
    size = ImageInput(height=side, width=side, channels=1)
    assert isinstance(described.model, Nets)
    made = gateway.store.teachers.publish_nets(
        name=name,
        model=described.model,
        tensors={"w": np.zeros((1, 2), np.float32)},
        classes=classes,
        preprocessing=Preprocessing(input=size, mean=(0.5,), std=(0.5,)),
        test_accuracy=None,
        job_id=None,
        created_at=described.created_at,
    )
    gateway.store.teachers.make_current(name, made.digest)


# --- what becomes a job ------------------------------------------------------------------------------------


def test_a_hugging_face_folder_becomes_a_job_that_finds_its_files(gateway: InProcessGateway):
    spec = job_of(gateway, send(gateway, TRANSFORMERS, FOLDER, claimed_accuracy=0.9))
    assert (spec.name, spec.claimed_accuracy) == ("net", 0.9)
    folder = incoming(gateway).folder(spec.source.files)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FOLDER
    assert gateway.dispatcher.sent
    assert list((gateway.store.root / "uploads").iterdir()) == []


def test_a_zip_of_such_a_folder_does_as_well(gateway: InProcessGateway):
    packed = zipped({f"vit/{name}": data for name, data in FOLDER.items()})
    spec = job_of(gateway, send(gateway, TRANSFORMERS, {"vit.zip": packed}))
    folder = incoming(gateway).folder(spec.source.files)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FOLDER


def test_a_folder_of_the_store_is_named_and_stays_where_it_is(gateway: InProcessGateway):
    folder = gateway.store.root / "incoming" / "my-vit"
    folder.mkdir(parents=True)
    for name, data in FOLDER.items():
        (folder / name).write_bytes(data)
    spec = job_of(gateway, say(gateway, TRANSFORMERS | {"files": {"folder": "my-vit"}}))
    assert spec.source.files == SentFiles(folder="my-vit")
    assert incoming(gateway).folder(spec.source.files) == folder


def test_an_ensemble_of_teachers_that_are_here_needs_no_files(gateway: InProcessGateway):
    publish(gateway, "one", ("a", "b"))
    publish(gateway, "two", ("a", "b"))
    spec = job_of(gateway, say(gateway, {"kind": "ensemble", "members": ["one", "two"]}))
    assert spec.source.members == ("one", "two")


def test_a_server_on_the_list_becomes_a_job_and_another_is_refused(gateway: InProcessGateway):
    assert job_of(gateway, say(gateway, OIP)).source.url == "http://triton:8000"
    for url in ("http://triton:8001", "http://169.254.169.254"):
        refused(say(gateway, OIP | {"url": url}), 422, "oip-host-not-allowed")
    assert len(gateway.dispatcher.sent) == 1


def test_a_form_without_files_is_as_good_as_json(gateway: InProcessGateway):
    publish(gateway, "one", ("a", "b"))
    publish(gateway, "two", ("a", "b"))
    form = {"teacher": (None, order({"kind": "ensemble", "members": ["one", "two"]}))}
    job_of(gateway, gateway.client.post("/v1/teachers", files=form))


# --- what is refused, with nothing left --------------------------------------------------------------------


BAD_FILES = {
    "a pickle by name": ({"pytorch_model.bin": b"x"}, 415, "pickle-refused"),
    "a pickle by content": (
        FOLDER | {"model.safetensors": pickle.dumps({"w": [0.0] * 9})}, 415, "pickle-refused",
    ),
    "torch's zip by content": (
        FOLDER | {"model.safetensors": zipped({"archive/data.pkl": b"x"})}, 415, "pickle-refused",
    ),
    "torch's zip in a zip's place": ({"a.zip": zipped({"archive/data.pkl": b"x"})}, 415, "pickle-refused"),
    "code": (FOLDER | {"modeling_vit.py": b"import os"}, 422, "invalid-model-files"),
    "a net that is fetched from a hub": (
        FOLDER | {"config.json": b'{"model_type": "timm_wrapper", "architecture": "hf-hub:evil/net"}'},
        422, "architecture-invalid",
    ),
    "code by another name": (
        FOLDER | {"config.json": b'{"model_type": "vit", "auto_map": {"AutoConfig": "evil.C"}}'},
        422, "architecture-invalid",
    ),
    "no weights": ({"config.json": b"{}"}, 422, "invalid-model-files"),
    "half the weights": (FOLDER | {"model.safetensors": WEIGHTS[:-1]}, 422, "invalid-model-files"),
    "more than a zip": ({"a.zip": zipped(FOLDER), "config.json": b"{}"}, 422, "invalid-model-files"),
    "a zip that is none": ({"a.zip": b"words"}, 422, "invalid-model-files"),
    "nothing": ({}, 422, "invalid-model-files"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_no_model_are_refused_and_leave_nothing(gateway: InProcessGateway, case: str):
    files, status, code = BAD_FILES[case]
    if files:
        answer = send(gateway, TRANSFORMERS, files)
    else:
        answer = gateway.client.post("/v1/teachers", files={"teacher": (None, order(TRANSFORMERS))})
    refused(answer, status, code)
    assert left(gateway) == []
    assert gateway.dispatcher.sent == []


def test_a_file_sent_twice_is_refused(gateway: InProcessGateway):
    parts = [("files", ("model.onnx", b"x")), ("files", ("a/model.onnx", b"y"))]
    answer = gateway.client.post("/v1/teachers", data={"teacher": order(ONNX)}, files=parts)
    refused(answer, 422, "invalid-model-files")
    assert left(gateway) == []


def test_a_pickle_is_refused_with_the_way_to_convert_it(gateway: InProcessGateway):
    problem = refused(
        send(gateway, {"kind": "timm", "model": "resnet18"}, {"best.pth": b"x"}), 415, "pickle-refused"
    )
    assert "best.pth" in str(problem["detail"])
    assert "safetensors.torch.save_file(model.state_dict()" in str(problem["remedy"])
    assert "safe_serialization=True" in str(problem["remedy"])


OIP = {"kind": "oip", "url": "http://triton:8000", "model": "digits"}
BAD_ORDERS = {
    "no JSON": (b"{", "invalid-json"),
    "no name": (json.dumps({"source": ONNX}).encode(), "request-invalid"),
    "a name that is none": (json.dumps({"name": "../up", "source": ONNX}).encode(), "request-invalid"),
    "a kind that is none": (order({"kind": "pickle"}), "request-invalid"),
    "a field that is none": (order(ONNX, colour="red"), "request-invalid"),
    "an architecture that is none": (
        order({"kind": "safetensors", "architecture": {"architecture": "vgg"}}), "unknown-architecture",
    ),
    "a server without address": (order({"kind": "oip", "model": "m"}), "request-invalid"),
    "an address that is no server's": (order(OIP | {"url": "file:///etc"}), "request-invalid"),
    "an address with a password": (order(OIP | {"url": "http://me:secret@triton"}), "request-invalid"),
    "a model that is a way out": (order(OIP | {"model": "m/../../admin"}), "request-invalid"),
    "a version that is a way out": (order(OIP | {"version": "../1?x"}), "request-invalid"),
    "one member twice": (order({"kind": "ensemble", "members": ["a", "a"]}), "request-invalid"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ORDERS)
@pytest.mark.parametrize("form", [True, False])
def test_orders_that_are_none_are_refused_in_words(gateway: InProcessGateway, case: str, form: bool):
    body, code = BAD_ORDERS[case]
    if form:
        files = {"teacher": (None, body), "files": ("model.onnx", b"x")}
        answer = gateway.client.post("/v1/teachers", files=files)
    else:
        answer = gateway.client.post("/v1/teachers", content=body, headers=JSON)
    refused(answer, 422, code)
    assert "secret" not in answer.text
    assert left(gateway) == []


def test_the_order_comes_before_the_files(gateway: InProcessGateway):
    files = [("files", ("model.onnx", b"x")), ("teacher", (None, order(ONNX)))]
    problem = refused(gateway.client.post("/v1/teachers", files=files), 422, "request-invalid")
    assert "before the files" in str(problem["detail"])


def test_what_the_words_rule_out_is_refused_before_a_file_is_kept(gateway: InProcessGateway, dataset: str):
    """The weights are damaged as well: that is never looked at."""
    files = {"config.json": b"{}", "model.safetensors": b"damaged"}
    wrong = {"classes": ["square", "round"]}
    refused(send(gateway, TRANSFORMERS | wrong, files, dataset=dataset), 422, "class-mismatch")
    refused(send(gateway, TRANSFORMERS, files, dataset="nothing"), 404, "dataset-not-found")
    assert left(gateway) == []


MISSING = {
    "files": (ONNX, 422, "invalid-model-files"),
    "a folder": (ONNX | {"files": {"folder": "nothing"}}, 404, "incoming-not-found"),
    "an upload of somebody else": (
        ONNX | {"files": {"upload": "upload-" + "0" * 32}},
        422,
        "invalid-model-files",
    ),
    "a member": ({"kind": "ensemble", "members": ["one", "nobody"]}, 404, "teacher-not-found"),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_an_order_without_files_names_has_to_be_there(gateway: InProcessGateway, case: str):
    source, status, code = MISSING[case]
    publish(gateway, "one", ("a", "b"))
    refused(say(gateway, source), status, code)


def test_members_that_disagree_are_refused(gateway: InProcessGateway):
    publish(gateway, "one", ("a", "b"))
    publish(gateway, "other-classes", ("b", "a"))
    publish(gateway, "other-images", ("a", "b"), side=32)
    for other, code in (("other-classes", "class-mismatch"), ("other-images", "input-mismatch")):
        refused(say(gateway, {"kind": "ensemble", "members": ["one", other]}), 422, code)


def test_files_with_a_source_that_has_none_are_refused(gateway: InProcessGateway):
    source = {"kind": "ensemble", "members": ["one", "two"]}
    refused(send(gateway, source, {"model.onnx": b"x"}), 422, "invalid-model-files")
    named = ONNX | {"files": {"folder": "my-net"}}
    refused(send(gateway, named, {"model.onnx": b"x"}), 422, "invalid-model-files")
    assert left(gateway) == []


def test_an_order_that_comes_as_a_job_is_looked_at_as_well(gateway: InProcessGateway):
    """Else a job could be made of what somebody else has uploaded, or of a server that is not on the list."""
    spec = job_of(gateway, send(gateway, TRANSFORMERS, FOLDER))
    stolen = json.loads(spec.model_dump_json()) | {"name": "stolen"}
    refused(gateway.client.post("/v1/jobs", json=stolen), 422, "invalid-model-files")
    server = {"kind": "oip", "url": "http://elsewhere", "model": "m"}
    order_of = {"kind": "teacher_import", "name": "net", "source": server}
    refused(gateway.client.post("/v1/jobs", json=order_of), 422, "oip-host-not-allowed")


def test_a_folder_of_the_store_is_looked_at_before_a_job_is_made(gateway: InProcessGateway):
    folder = gateway.store.root / "incoming" / "my-net"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"words")
    refused(say(gateway, ONNX | {"files": {"folder": "my-net"}}), 422, "invalid-model-files")
    assert folder.is_dir()


def test_bodies_have_limits(gateway: InProcessGateway):
    """An upload has one of its own; words, in whatever form, have that of every other request."""
    large = WEIGHTS + bytes(3_000_001)
    refused(send(gateway, TRANSFORMERS, FOLDER | {"model.safetensors": large}), 413, "body-too-large")
    refused(say(gateway, ONNX | {"output": "x" * 20_000}), 413, "body-too-large")
    check = gateway.client.post("/v1/teachers/one/check", json={"dataset": "x" * 20_000})
    refused(check, 413, "body-too-large")
    refused(send(gateway, ONNX | {"output": "x" * 20_000}, {"model.onnx": b"x"}), 422, "malformed-body")
    assert left(gateway) == []


def test_a_zip_that_unpacks_to_more_than_an_upload_may_be_is_refused(gateway: InProcessGateway):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.safetensors", bytes(1_000_000) + os.urandom(40_000) + bytes(2_500_000))
    refused(send(gateway, TRANSFORMERS, {"a.zip": out.getvalue()}), 413, "body-too-large")
    assert left(gateway) == []


def test_other_media_types_are_refused(gateway: InProcessGateway):
    refused(gateway.client.post("/v1/teachers", content=b"x"), 415, "unsupported-media-type")


def test_more_uploads_than_are_taken_in_at_a_time_are_told_to_wait(gateway: InProcessGateway):
    gateway.parts.uploads.total_tokens = 0
    refused(send(gateway, TRANSFORMERS, FOLDER), 503, "queue-full")


def test_an_upload_that_no_job_could_be_made_of_is_removed(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
):
    def away(*_: object) -> None:
        raise JobStoreUnavailable("it is away")

    monkeypatch.setattr(gateway.jobs, "submit", away)
    refused(send(gateway, TRANSFORMERS, FOLDER), 503, "job-store-unavailable")
    assert left(gateway) == []


def test_an_upload_waits_for_its_job_as_long_as_that_takes(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
):
    """Every later upload sweeps, and so does a gateway that starts; not where no job store answers."""
    spec = job_of(gateway, send(gateway, TRANSFORMERS, FOLDER))
    nobodys = incoming(gateway).folder(spec.source.files).with_name(new_upload())
    nobodys.mkdir()
    long_ago = time.time() - KEPT_S - 60
    for folder in (incoming(gateway).folder(spec.source.files), nobodys):
        os.utime(folder, (long_ago, long_ago))

    def away(*_: object) -> None:
        raise JobStoreUnavailable("it is away")

    with monkeypatch.context() as hidden:
        hidden.setattr(gateway.jobs, "list", away)
        clear_old_uploads(gateway.store, gateway.parts.jobs)
    assert nobodys.is_dir()
    job_of(gateway, send(gateway, TRANSFORMERS, FOLDER))
    assert not nobodys.exists()
    assert incoming(gateway).folder(spec.source.files).is_dir()


def test_a_full_disk_is_told_and_leaves_nothing(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("services.gateway.uploads.datasets._append", full)
    refused(send(gateway, TRANSFORMERS, FOLDER), 503, "store-full")
    assert left(gateway) == []


# --- trying a teacher --------------------------------------------------------------------------------------


def test_a_check_is_a_job_whose_report_is_the_list(gateway: InProcessGateway, dataset: str):
    publish(gateway, "one", ("round", "square"))
    body = {"dataset": dataset, "claimed_accuracy": 0.9}
    answer = gateway.client.post("/v1/teachers/one/check", json=body)
    assert answer.status_code == 201, answer.text
    job = gateway.jobs.get(answer.json()["id"])
    assert job.spec == TeacherCheckSpec(name="one", dataset=dataset, claimed_accuracy=0.9)
    assert answer.headers["Location"] == f"/v1/jobs/{job.id}"


def test_what_is_to_be_tried_has_to_be_there(gateway: InProcessGateway, dataset: str):
    publish(gateway, "one", ("round", "square"))
    body = {"dataset": dataset}
    refused(gateway.client.post("/v1/teachers/nobody/check", json=body), 404, "teacher-not-found")
    refused(gateway.client.post("/v1/teachers/No%20Name/check", json=body), 404, "teacher-not-found")
    refused(gateway.client.post("/v1/teachers/one/check", json={"dataset": "x"}), 404, "dataset-not-found")
    wrong = {"dataset": dataset, "claimed_accuracy": 97}
    refused(gateway.client.post("/v1/teachers/one/check", json=wrong), 422, "request-invalid")


def test_teachers_are_listed_with_what_answers_and_where_they_come_from(gateway: InProcessGateway):
    publish(gateway, "one", ("a", "b"))
    (listed,) = gateway.client.get("/v1/teachers").json()["teachers"]
    assert listed == gateway.client.get("/v1/teachers/one").json()
    assert (listed["model"]["kind"], listed["precision"]) == ("nets", "float32")
    assert "source" in listed


def test_a_damaged_teacher_hides_no_other(gateway: InProcessGateway):
    """Such as one of an earlier version, whose description is not read any more."""
    publish(gateway, "one", ("a", "b"))
    publish(gateway, "old", ("a", "b"))
    (described,) = (gateway.store.root / "teachers" / "old").glob("*/teacher.json")
    described.write_text('{"format": 1}')
    listed = gateway.client.get("/v1/teachers").json()["teachers"]
    assert [teacher["name"] for teacher in listed] == ["one"]
