"""What the protocol says of the server and of the students."""

import pytest

from shared.contracts.oip import ModelMetadata
from tests.support.oip_requests import parts_of, refused
from tests.support.student_bundles import mlp_onnx


def test_the_server_says_what_it_can_do(gateway):
    answer = gateway.client.get("/v2")
    assert answer.json()["name"] == "imago"
    assert answer.json()["extensions"] == ["classification", "binary_tensor_data"]


def test_the_process_lives_and_is_ready_without_a_student(gateway):
    assert gateway.client.get("/v2/health/live").json() == {"live": True}
    assert gateway.client.get("/v2/health/ready").json() == {"ready": True}


def test_it_is_not_ready_where_the_promoted_student_cannot_be_loaded(gateway):
    parts_of(gateway.client.app).live.problem = "its graph does not load"
    answer = gateway.client.get("/v2/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})


def test_a_model_is_the_name_on_the_card_and_describes_the_live_student(gateway):
    gateway.promote("digits-1")
    gateway.publish("digits-2")
    answer = gateway.client.get("/v2/models/digits")
    found = ModelMetadata.model_validate_json(answer.content)
    assert answer.headers["X-Student-Version"] == "digits-1"
    assert (found.name, set(found.versions)) == ("digits", {"digits-1", "digits-2"})
    assert [(t.name, t.datatype, t.shape) for t in found.inputs] == [
        ("images", "UINT8", (-1, 28, 28, 1)),
        ("encoded", "BYTES", (-1,)),
    ]
    assert [(t.name, t.datatype, t.shape) for t in found.outputs] == [
        ("probabilities", "FP32", (-1, 10)),
        ("logits", "FP32", (-1, 10)),
        ("predicted", "BYTES", (-1,)),
    ]
    assert found.parameters == {"version": "digits-1", "classes": [str(digit) for digit in range(10)]}


def test_a_version_is_described_though_it_is_not_live(gateway):
    gateway.promote("digits-1")
    gateway.publish("digits-2", mlp_onnx(classes=3), classes=("a", "b", "c"))
    found = gateway.client.get("/v2/models/digits/versions/digits-2").json()
    assert found["parameters"] == {"version": "digits-2", "classes": ["a", "b", "c"]}


def test_a_new_version_is_listed_at_once(gateway):
    gateway.promote("digits-1")
    assert gateway.client.get("/v2/models/digits").json()["versions"] == ["digits-1"]
    gateway.publish("digits-2")
    assert set(gateway.client.get("/v2/models/digits").json()["versions"]) == {"digits-1", "digits-2"}


def test_every_version_can_be_made_ready(gateway):
    gateway.promote("digits-1")
    gateway.publish("digits-2")
    for path in ("", "/versions/digits-1", "/versions/digits-2"):
        answer = gateway.client.get(f"/v2/models/digits{path}/ready")
        assert answer.json() == {"name": "digits", "ready": True}, path


def test_a_version_that_does_not_load_is_not_ready(gateway):
    gateway.promote("digits-1")
    gateway.publish("digits-2", mlp_onnx(temperature=3.0))
    refused(gateway.client.get("/v2/models/digits/versions/digits-2/ready"), 409, "student-unusable")


@pytest.mark.parametrize("path", ["", "/ready"])
def test_a_model_that_is_not_there_is_told_with_those_that_are(gateway, path):
    gateway.promote("digits-1")
    words = refused(gateway.client.get(f"/v2/models/nobody{path}"), 404, "model-not-found")
    assert "'nobody'" in words
    assert "digits (digits-1)" in words


@pytest.mark.parametrize("path", ["", "/ready"])
@pytest.mark.parametrize("version", ["7", "colours-1", "..", "x" * 300])
def test_a_version_that_is_not_there_or_of_another_name_is_told(gateway, path, version):
    gateway.promote("digits-1")
    answer = gateway.client.get(f"/v2/models/digits/versions/{version}{path}".replace("..", "%2e%2e"))
    if version == "..":
        assert answer.status_code == 404
    else:
        refused(answer, 404, "model-not-found")


def test_a_name_without_a_live_student_is_asked_by_version(gateway):
    gateway.publish("digits-1")
    words = refused(gateway.client.get("/v2/models/digits"), 404, "model-not-found")
    assert "none of them is live" in words
    assert "digits (digits-1)" in words


def test_without_any_student_the_way_to_one_is_told(gateway):
    words = refused(gateway.client.get("/v2/models/digits"), 404, "model-not-found")
    assert "/promote" in words


def test_refusals_of_the_framework_have_the_form_of_the_protocol(gateway):
    refused(gateway.client.get("/v2/nothing"), 404, "not-found")
    answer = gateway.client.get("/v2/models/digits/infer")
    refused(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == "POST"


def test_refusals_of_other_paths_stay_problem_documents(gateway):
    answer = gateway.client.get("/v1/nothing")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_fault_of_ours_has_the_form_of_the_protocol_too(gateway, monkeypatch, caplog):
    def broken() -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(parts_of(gateway.client.app).models, "versions", broken)
    refused(gateway.client.get("/v2/models/nobody"), 500, "internal-error")
    assert "no such luck" in caplog.text
