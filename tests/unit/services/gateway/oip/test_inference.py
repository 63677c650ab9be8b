"""Inference by the protocol: the numbers are those of the student, in each form that can be asked for."""

import asyncio
import base64
import gzip
import json
import time
import zlib

import httpx
import numpy as np
import pytest

from shared.contracts.images import ImageInput
from shared.contracts.oip import InferenceRequest, InferenceResponse
from shared.serving.session import StudentSession
from tests.support.gateway_in_process import image_file
from tests.support.oip_requests import (
    INFER,
    LENGTH,
    ask,
    binary,
    digits,
    parts_of,
    pixel_tensor,
    refused,
    strings,
)
from tests.support.student_bundles import mlp_onnx


@pytest.fixture(scope="module")
def student(live) -> StudentSession:
    """The live student, once more."""
    return StudentSession.load(live.store.students.file("digits-1", "card.json").parent)


def answered(answer) -> InferenceResponse:
    assert answer.status_code == 200, answer.text
    found = InferenceResponse.model_validate_json(answer.content)
    assert answer.headers["X-Student-Version"] == found.model_version
    return found


def parts(answer) -> tuple[dict, bytes]:
    """Return JSON and bytes of a binary answer."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers[LENGTH])
    return json.loads(answer.content[:length]), answer.content[length:]


def wanting(*outputs: dict) -> dict:
    return {"outputs": list(outputs)}


# --- inputs ---


@pytest.mark.parametrize("nested", [False, True])
def test_raw_pixels_in_json_are_answered_with_the_probabilities(live, student, nested):
    images = digits(3)
    request = ask(images)
    if nested:
        request["inputs"][0]["data"] = images.tolist()
    InferenceRequest.model_validate(request)  # what is documented is what is taken
    (output,) = answered(live.client.post(INFER, json=request)).outputs
    assert (output.name, output.datatype, output.shape) == ("probabilities", "FP32", (3, 10))
    np.testing.assert_allclose(np.reshape(output.data, (3, 10)), student.probabilities(images), atol=1e-6)


def test_raw_pixels_in_binary_are_answered_in_binary_where_that_is_asked_for(live, student):
    images = digits(4)
    body, headers = binary(
        pixel_tensor(images), images.tobytes(), parameters={"binary_data_output": True}, id="seven"
    )
    described, data = parts(live.client.post(INFER, content=body, headers=headers))
    assert (described["model_name"], described["model_version"]) == ("digits", "digits-1")
    assert described["id"] == "seven"
    assert described["outputs"] == [
        {
            "name": "probabilities",
            "datatype": "FP32",
            "shape": [4, 10],
            "parameters": {"binary_data_size": 160},
        }
    ]
    np.testing.assert_allclose(
        np.frombuffer(data, "<f4").reshape(4, 10), student.probabilities(images), atol=1e-6
    )


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("by", ["binary", "base64"])
def test_encoded_images_are_decoded_as_on_our_own_route(live, student, form, by):
    files = [image_file(40, 30, form=form, seed=seed) for seed in range(2)]
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [2]}
    if by == "binary":
        body, headers = binary(tensor, strings(files))
        answer = live.client.post(INFER, content=body, headers=headers)
    else:
        tensor["data"] = [base64.b64encode(file).decode() for file in files]
        answer = live.client.post(INFER, json={"inputs": [tensor]})
    (output,) = answered(answer).outputs
    for file, row in zip(files, np.reshape(output.data, (2, 10)), strict=True):
        ours = live.client.post("/v1/predictions?top=10", content=file).json()["predictions"][0]
        found = {c["name"]: c["probability"] for c in ours["classes"]}
        np.testing.assert_allclose(row, [found[str(digit)] for digit in range(10)], atol=1e-6)


def test_the_same_pixels_get_the_same_answer_in_every_form(live, student):
    images = digits(2)
    one = answered(live.client.post(INFER, json=ask(images))).outputs[0].data
    body, headers = binary(pixel_tensor(images), images.tobytes())
    assert answered(live.client.post(INFER, content=body, headers=headers)).outputs[0].data == one


def test_a_student_for_colours_takes_its_own_shape(gateway):
    rgb = ImageInput(height=8, width=6, channels=3)
    gateway.promote("colours-1", mlp_onnx(rgb, classes=2), image=rgb, classes=("cat", "dog"))
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), dtype=np.uint8)
    assert answered(gateway.client.post(INFER, json=ask(images))).outputs[0].shape == (2, 2)
    refused(gateway.client.post(INFER, json=ask(digits(1))), 400, "invalid-inference")


# --- outputs ---


def test_all_outputs_come_in_the_order_asked_for(live, student):
    images = digits(3)
    wanted = wanting({"name": "predicted"}, {"name": "logits"}, {"name": "probabilities"})
    found = answered(live.client.post(INFER, json=ask(images) | wanted)).outputs
    logits, probabilities = student.run(images)
    assert [output.name for output in found] == ["predicted", "logits", "probabilities"]
    assert found[0].data == [student.classes[best] for best in probabilities.argmax(axis=1)]
    np.testing.assert_allclose(np.reshape(found[1].data, (3, 10)), logits, atol=1e-5)
    np.testing.assert_allclose(np.reshape(found[2].data, (3, 10)), probabilities, atol=1e-6)


def test_some_outputs_may_follow_the_json_and_others_stand_in_it(live, student):
    images = digits(2)
    wanted = wanting(
        {"name": "predicted", "parameters": {"binary_data": True}},
        {"name": "probabilities"},
        {"name": "logits", "parameters": {"binary_data": True}},
    )
    described, data = parts(live.client.post(INFER, json=ask(images) | wanted))
    predicted, probabilities, logits = described["outputs"]
    size = predicted["parameters"]["binary_data_size"]
    names = [student.classes[best] for best in student.probabilities(images).argmax(axis=1)]
    assert data[:size] == strings([name.encode() for name in names])
    assert len(probabilities["data"]) == 20
    assert len(data) == size + logits["parameters"]["binary_data_size"] == size + 80
    np.testing.assert_allclose(np.frombuffer(data[size:], "<f4"), student.run(images)[0].ravel(), atol=1e-5)


@pytest.mark.parametrize("name", ["probabilities", "logits"])
def test_classes_are_told_as_triton_tells_them(live, student, name):
    images = digits(2)
    wanted = wanting({"name": name, "parameters": {"classification": 3}})
    (output,) = answered(live.client.post(INFER, json=ask(images) | wanted)).outputs
    assert (output.datatype, output.shape) == ("BYTES", (2, 3))
    values = student.run(images)[0 if name == "logits" else 1]
    expected = [f"{row[i]:f}:{i}:{student.classes[i]}" for row in values for i in np.argsort(-row)[:3]]
    assert [text.split(":")[1:] for text in output.data] == [text.split(":")[1:] for text in expected]
    found = [float(text.split(":")[0]) for text in output.data]
    np.testing.assert_allclose(found, [float(text.split(":")[0]) for text in expected], atol=2e-6)


def test_more_classes_than_there_are_are_all_of_them(live, student):
    wanted = wanting({"name": "probabilities", "parameters": {"classification": 10**9, "binary_data": True}})
    described, data = parts(live.client.post(INFER, json=ask(digits()) | wanted))
    assert described["outputs"][0]["shape"] == [1, 10]
    assert len(data) == described["outputs"][0]["parameters"]["binary_data_size"]


# --- versions ---


def test_a_version_that_is_not_live_answers_where_it_is_named(gateway):
    gateway.promote("digits-1", mlp_onnx(favourite=1))
    gateway.publish("digits-2", mlp_onnx(favourite=2))
    request = ask(digits()) | wanting({"name": "predicted"})
    for version, path in {"digits-1": "", "digits-2": "/versions/digits-2"}.items():
        found = answered(gateway.client.post(f"/v2/models/digits{path}/infer", json=request))
        assert (found.model_version, found.outputs[0].data) == (version, [version[-1]])


def test_a_promotion_changes_who_answers_without_a_version(gateway):
    gateway.promote("digits-1")
    assert answered(gateway.client.post(INFER, json=ask(digits()))).model_version == "digits-1"
    gateway.promote("digits-2")
    assert answered(gateway.client.post(INFER, json=ask(digits()))).model_version == "digits-2"


def test_a_version_of_another_name_is_not_there(gateway, monkeypatch):
    gateway.promote("digits-1")
    path = "/v2/models/colours/versions/digits-1/infer"
    refused(gateway.client.post(path, json=ask(digits())), 404, "model-not-found")


def test_a_canary_answers_its_share_of_what_names_no_version(gateway):
    gateway.promote("digits-1", mlp_onnx(favourite=1))
    gateway.publish("digits-2", mlp_onnx(favourite=2))
    policy = {"canary": {"version": "digits-2", "share": 0.5}}
    assert gateway.client.put("/v1/traffic", json=policy).status_code == 200
    for path, expected in {"": {"digits-1", "digits-2"}, "/versions/digits-1": {"digits-1"}}.items():
        versions = set()
        for key in range(40):
            answer = gateway.client.post(
                f"/v2/models/digits{path}/infer",
                json=ask(digits()) | wanting({"name": "predicted"}),
                headers={"X-Canary-Key": str(key)},
            )
            found = answered(answer)
            assert found.outputs[0].data == [found.model_version[-1]]
            versions.add(found.model_version)
        assert versions == expected


def test_a_version_that_was_deleted_is_not_there_any_more(gateway):
    gateway.promote("digits-1")
    gateway.publish("digits-2")
    path = "/v2/models/digits/versions/digits-2/infer"
    answered(gateway.client.post(path, json=ask(digits())))
    assert gateway.client.delete("/v1/students/digits-2").status_code == 204
    refused(gateway.client.post(path, json=ask(digits())), 404, "model-not-found")
    assert gateway.client.get("/v2/models/digits").json()["versions"] == ["digits-1"]


# --- together with others, and in time ---


def test_requests_are_counted_like_predictions(live, student):
    live.client.post(INFER, json=ask(digits(3)) | wanting({"name": "logits"}))
    live.client.post(INFER, json=ask(digits(2)))
    metrics = live.client.get("/metrics").text
    assert 'imago_http_requests_total{method="POST",route="/v2/models/{name}/infer",status="200"}' in metrics


def test_one_call_of_the_student_answers_both_protocols_together(live, monkeypatch):
    """What one turn of the event loop brings is one call, whatever route it came by."""
    parts = parts_of(live.client.app)
    calls: list[list[int]] = []
    monkeypatch.setattr(
        parts.batches, "observers", [lambda one: calls.append([len(a.pixels) for a in one.batch])]
    )
    transport = httpx.ASGITransport(live.client.app)

    async def ask_both() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await asyncio.gather(
                client.post(INFER, json=ask(digits(3))),
                client.post("/v1/predictions", content=image_file()),
                client.post(INFER, json=ask(digits(2))),
            )

    assert [answer.status_code for answer in live.client.portal.call(ask_both)] == [200] * 3
    assert sorted(sizes for call in calls for sizes in call) == [1, 2, 3]
    assert len(calls) < 3


def test_a_request_that_is_too_late_is_refused(live, student, monkeypatch):
    monkeypatch.setattr(
        "services.gateway.routes.oip.deadline_of", lambda given, began: time.perf_counter() - 0.001
    )
    for wanted in ({}, wanting({"name": "logits"})):
        answer = live.client.post(INFER, json=ask(digits()) | wanted)
        refused(answer, 504, "deadline-exceeded")
        assert answer.headers["Retry-After"]


def test_the_timeout_of_the_protocol_is_a_deadline(live, student):
    for microseconds, status in ((1, 504), (60_000_000, 200)):
        request = ask(digits()) | {"parameters": {"timeout": microseconds}} | wanting({"name": "logits"})
        assert live.client.post(INFER, json=request).status_code == status


def test_a_deadline_that_is_none_is_refused(live, student):
    answer = live.client.post(INFER, json=ask(digits()), headers={"X-Deadline-Ms": "soon"})
    refused(answer, 400, "invalid-deadline")


def test_too_much_that_waits_is_refused_with_the_time_to_come_again(live, student, monkeypatch):
    parts = parts_of(live.client.app)
    monkeypatch.setattr(parts.batches._turn, "images", 10**6)
    monkeypatch.setattr(parts.batches._thread, "images", 10**6)
    answer = live.client.post(INFER, json=ask(digits()))
    refused(answer, 503, "queue-full")
    assert int(answer.headers["Retry-After"]) >= 1


def test_large_tensors_are_answered_apart_with_the_same_numbers(live, student, monkeypatch):
    images = digits(4)
    here = answered(live.client.post(INFER, json=ask(images)))
    monkeypatch.setattr("services.gateway.oip.inference._SMALL_BYTES", 10)
    monkeypatch.setattr("services.gateway.oip.inference.SMALL_JSON", 10)
    assert answered(live.client.post(INFER, json=ask(images))) == here


# --- compression ---

PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("coding", PACKERS)
def test_a_compressed_request_is_read(live, student, coding):
    images = digits(2)
    body, headers = binary(pixel_tensor(images), images.tobytes())
    plain = answered(live.client.post(INFER, content=body, headers=headers))
    packed = PACKERS[coding](body)
    answer = live.client.post(INFER, content=packed, headers=headers | {"Content-Encoding": coding})
    assert answered(answer) == plain


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br, gzip;q=0, deflate", "deflate"),
        ("identity", None),
        ("br", None),
        ("", None),
    ],
)
def test_a_long_answer_is_compressed_where_the_client_reads_that(gateway, accepts, coding):
    gateway.promote("digits-1", mlp_onnx(classes=100), classes=tuple(f"class-{i}" for i in range(100)))
    answer = gateway.client.post(INFER, json=ask(digits(4)), headers={"Accept-Encoding": accepts})
    assert answer.headers.get("Content-Encoding") == coding
    plain = gateway.client.post(INFER, json=ask(digits(4)), headers={"Accept-Encoding": "identity"})
    assert answered(answer) == answered(plain)
    assert (int(answer.headers["Content-Length"]) < len(plain.content)) == (coding is not None)


def test_an_answer_that_fits_one_packet_is_not_compressed(live, student):
    answer = live.client.post(INFER, json=ask(digits()), headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in answer.headers


def test_a_body_that_inflates_beyond_the_limit_is_refused_without_making_all_of_it(live, student):
    packed = gzip.compress(bytes(50 * 2**20))
    answer = live.client.post(INFER, content=packed, headers={"Content-Encoding": "gzip"})
    refused(answer, 413, "body-too-large")


@pytest.mark.parametrize("coding", PACKERS)
@pytest.mark.parametrize("spoil", [lambda b: b[:-3], lambda b: b + b"x", lambda b: b"x" + b, lambda b: b""])
def test_a_body_that_is_not_compressed_as_it_says_is_refused(live, student, coding, spoil):
    packed = spoil(PACKERS[coding](json.dumps(ask(digits())).encode()))
    answer = live.client.post(INFER, content=packed, headers={"Content-Encoding": coding})
    refused(answer, 400, "malformed-body")


def test_another_compression_is_refused(live, student):
    answer = live.client.post(INFER, content=b"x", headers={"Content-Encoding": "br"})
    assert "gzip, deflate" in refused(answer, 415, "unsupported-content-encoding")
