"""Servers at fault, and servers that may not be asked."""

import socket
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from shared.adapters import oip
from shared.adapters.oip import OipModel, OipServer
from shared.adapters.oip_hosts import AllowedHosts
from shared.adapters.oip_models import find_model
from shared.contracts.images import ImageInput
from shared.contracts.teachers import RemoteModel
from shared.errors import (
    ModelUnfit,
    OipHostNotAllowed,
    TeacherAnswerInvalid,
    TeacherChanged,
    TeacherUnavailable,
)
from shared.models.probes import Probe, probe_images
from shared.models.remote import RemoteTeacher
from tests.support.any_teachers import described
from tests.support.oip_server import MODEL, stub_server
from tests.support.onnx_graphs import linear_logits, linear_weights
from tests.support.teachers import INPUT, random_images

IMAGES = random_images(6)
PIXELS = ((IMAGES / 255 - 0.25) / 0.5).astype(np.float32).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module", params=[False, True], ids=["json", "binary"])
def served(request):
    with stub_server(binary=request.param) as found:
        yield found


@pytest.fixture
def stub(served, monkeypatch):
    """The stub of this module, without a fault; waits between attempts are short."""
    monkeypatch.setattr(oip, "_FIRST_WAIT_S", 0.001)
    _, found = served
    found.fault, found.datatype = None, "FP32"
    found.requests.clear()
    return found


def model_at(url: str, *, timeout_s: float = 5.0, **fields) -> OipModel:
    remote = RemoteModel(url=url, model=MODEL, input="pixels", output="scores", **fields)
    return OipModel(remote, AllowedHosts.of(urlsplit(url).netloc), timeout_s=timeout_s)


@pytest.fixture
def model(served, stub):
    found = model_at(served[0], binary=stub.binary, timeout_s=0.3)
    yield found
    found.close()


def test_a_server_that_has_no_room_is_asked_again_a_few_times_and_names_its_time(model, stub):
    stub.fault = "down"
    with pytest.raises(TeacherUnavailable, match="status 503: no worker is free") as refused:
        model.infer(PIXELS)
    assert refused.value.retry_after_s == 7
    assert 1 <= len(stub.requests) <= 4


def test_a_server_that_fails_for_a_moment_is_not_noticed(model, stub, monkeypatch):
    monkeypatch.setattr(oip, "_RETRY_AFTER_S", 10.0)
    stub.fault = "flaky"
    assert model.infer(PIXELS).shape == (6, 4)
    assert len(stub.requests) == 2


@pytest.mark.parametrize("fault", ["slow", "trickle"])
def test_a_server_that_is_slow_is_not_waited_for(model, stub, fault):
    stub.fault = fault
    began = time.monotonic()
    with pytest.raises(TeacherUnavailable, match=r"no answer in 0\.3 s"):
        model.infer(PIXELS)
    assert time.monotonic() - began < 1.5
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refused", r"status 400 .*unexpected shape for input 'pixels'"),
        ("redirect", r"status 307 .*redirects are not followed"),
        ("datatype", r"answered 'scores' in INT64, not in one of FP16, FP32, FP64, BF16"),
        ("name", r"did not answer 'scores', got .*'logits'"),
        ("count", r"answered 24 numbers in 'scores' for the shape \[12, 4\]"),
        ("garbage", r"answered no JSON: '<html>a proxy</html>'"),
        ("huge", r"answered with more than \d+ bytes"),
    ],
)
def test_an_answer_that_is_none_is_refused_with_what_came(served, stub, monkeypatch, fault, words):
    monkeypatch.setattr(oip, "_LARGEST_ANSWER_BYTES", 2**20)
    model = model_at(served[0], binary=stub.binary)
    stub.fault = fault
    with pytest.raises(TeacherAnswerInvalid, match=words):
        model.infer(PIXELS)
    assert len(stub.requests) == 1
    model.close()


@pytest.mark.parametrize(("datatype", "tolerance"), [("FP16", 1e-2), ("FP64", 1e-5), ("BF16", 5e-2)])
def test_answers_of_other_widths_are_read(model, stub, datatype, tolerance):
    stub.datatype = datatype
    expected = linear_logits(IMAGES, *linear_weights(), 0.25, 0.5)
    np.testing.assert_allclose(model.infer(PIXELS).astype(np.float64), expected, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_tensors_of_other_widths_are_sent(served, stub, dtype):
    model = model_at(served[0], binary=stub.binary)
    pixels = np.arange(60).reshape(2, 1, 6, 5).astype(dtype)
    weight, bias = linear_weights()
    expected = pixels.reshape(2, -1).astype(np.float64) @ weight + bias
    np.testing.assert_allclose(model.infer(pixels), expected, rtol=1e-5)
    model.close()


def test_parts_of_other_shapes_do_not_become_one_answer(served, stub):
    model = model_at(served[0], binary=stub.binary, rows=4)
    stub.fault = "shape"
    with pytest.raises(TeacherAnswerInvalid, match=r"\[8, 3\] numbers about 4 images"):
        model.infer(PIXELS)
    model.close()


def test_a_version_is_part_of_the_address(served, stub):
    model = model_at(served[0], binary=stub.binary, version="1")
    model.infer(PIXELS)
    assert stub.requests == [("/v2/models/shapes/versions/1/infer", 6)]
    model.close()


# --- as a teacher ------------------------------------------------------------------------------------------


def teacher(model: OipModel, url: str, *, probed: bool = True) -> RemoteTeacher:
    remote = RemoteModel(url=url, model=MODEL, input="pixels", output="scores")
    images = probe_images(INPUT)
    logits = linear_logits(images, *linear_weights(), 0.25, 0.5).astype(np.float32)
    probe = Probe(images, logits) if probed else None
    return RemoteTeacher(described(remote, name="far"), model, probe, probe_every_s=0.0)


def test_a_teacher_names_the_shape_that_a_server_should_have_answered(model, stub, served):
    far = teacher(model, served[0], probed=False)
    stub.fault = "shape"
    with pytest.raises(TeacherAnswerInvalid, match="6 x 4 numbers in 'scores', got 12 x 3"):
        far.member_logits(torch.from_numpy(IMAGES))


def test_a_row_that_a_server_answers_with_nan_stays_one_row(model, stub, served):
    far = teacher(model, served[0], probed=False)
    stub.fault = "nan"
    finite = torch.isfinite(far.member_logits(torch.from_numpy(IMAGES))[0]).all(-1)
    assert finite.tolist() == [True, True, True, False, True, True]


def test_a_server_with_another_model_under_the_same_name_is_noticed(model, stub, served):
    far = teacher(model, served[0])
    assert far.member_logits(torch.from_numpy(IMAGES)).shape == (1, 6, 4)
    stub.fault = "changed"
    with pytest.raises(TeacherChanged, match="its server answers the probe images otherwise"):
        far.member_logits(torch.from_numpy(IMAGES))


def test_a_server_that_was_down_answers_again_when_it_is_back(model, stub, served):
    far = teacher(model, served[0])
    stub.fault = "down"
    with pytest.raises(TeacherUnavailable):
        far.member_logits(torch.from_numpy(IMAGES))
    stub.fault = None
    assert far.member_logits(torch.from_numpy(IMAGES)).shape == (1, 6, 4)


def test_a_port_where_nobody_listens_is_a_teacher_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(oip, "_FIRST_WAIT_S", 0.001)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = model_at(f"http://127.0.0.1:{port}")
    with pytest.raises(TeacherUnavailable, match=rf"the server 127\.0\.0\.1:{port}"):
        model.infer(PIXELS)
    model.close()


# --- which model, and how ----------------------------------------------------------------------------------


def found(served, **options):
    url, _ = served
    server = OipServer(url, AllowedHosts.of(urlsplit(url).netloc))
    try:
        return find_model(server, url=url, model=MODEL, **options)
    finally:
        server.close()


def tensor(name: str, shape: list[int], datatype: str = "FP32") -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape}


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ([tensor("a", [-1, 3, 8, 8]), tensor("b", [-1, 2])], None, "takes 2: 'a'"),
        ([tensor("a", [-1, 12])], None, "no batch of images"),
        ([tensor("a", [-1, 3, 8, 8], "BYTES")], None, "BYTES"),
        ([tensor("a", [-1, -1, 8, 8])], None, "no fixed number"),
        ([tensor("a", [8, 3, 8, 8])], None, "exactly 8 images"),
        ([], None, "does not say which inputs"),
        (None, [tensor("a", [-1, 4]), tensor("b", [-1, 4])], "2 outputs"),
        (None, [tensor("a", [-1, 4], "INT64")], "not a number a class"),
    ],
)
def test_a_model_that_takes_no_images_or_answers_no_classes_is_refused(
    served, stub, monkeypatch, inputs, outputs, words
):
    if inputs is not None:
        monkeypatch.setattr(stub, "inputs", inputs or None)
    if outputs is not None:
        monkeypatch.setattr(stub, "outputs", outputs)
    with pytest.raises(ModelUnfit, match=words):
        found(served)


def test_a_model_that_is_not_ready_does_not_answer_now(served, stub, monkeypatch):
    monkeypatch.setattr(stub, "ready", False)
    with pytest.raises(TeacherUnavailable, match="not ready"):
        found(served)


@pytest.mark.parametrize(("height", "json_rows", "binary_rows"), [(32, 64, 64), (224, 2, 6)])
def test_a_call_has_as_many_images_as_make_a_request_of_some_megabytes(
    served, stub, monkeypatch, height, json_rows, binary_rows
):
    monkeypatch.setattr(stub, "inputs", [tensor("a", [-1, 3, height, height])])
    remote, _, _ = found(served)
    assert remote.rows == (binary_rows if stub.binary else json_rows)
    monkeypatch.setattr(stub, "inputs", [tensor("a", [-1, 3, -1, -1])])
    image = ImageInput(height=height, width=height, channels=3)
    remote, takes, _ = found(served, image=image)
    assert takes.image is None
    assert remote.rows == (binary_rows if stub.binary else json_rows)
    monkeypatch.setattr(stub, "inputs", [tensor("a", [1, 3, height, height])])
    assert found(served)[0].rows == 1


def test_a_server_that_takes_bytes_and_does_not_say_so_is_sent_bytes(served, stub, monkeypatch):
    monkeypatch.setattr(stub, "says_so", False)
    assert found(served)[0].binary == stub.binary


@pytest.mark.parametrize(("configured", "rows"), [(8, 8), (500, 64), (0, 64)])
def test_no_call_has_more_images_than_the_servers_configuration_allows(
    served, stub, monkeypatch, configured, rows
):
    monkeypatch.setattr(stub, "max_batch", configured)
    assert found(served)[0].rows == rows


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "a?b", "a b"])
def test_a_name_that_would_be_another_path_is_no_model(name):
    with pytest.raises(ValidationError):
        RemoteModel(url="http://h", model=name, input="a", output="b")


# --- which servers may be asked ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("triton", "http://triton:8000"),
        ("triton:8000", "http://TRITON:8000/prefix"),
        ("triton:80", "http://triton"),
        ("triton:443", "https://triton"),
        (" other:1 , triton:8000 ", "http://triton:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("10.0.0.7:8000", "http://10.0.0.7:8000"),
    ],
)
def test_a_server_on_the_list_may_be_asked(allowed, url):
    AllowedHosts.of(allowed).need(url)


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("", "http://triton:8000"),
        ("triton:8000", "http://triton:8001"),
        ("triton:8000", "http://triton"),
        ("triton", "http://triton.example:8000"),
        ("triton", "http://evil-triton"),
        ("triton", "http://triton@evil"),
        ("triton", "http://name:secret@triton"),
        ("triton", "http://evil#@triton"),
        ("triton", "ftp://triton"),
        ("triton", "file:///etc/passwd"),
        ("triton", "//triton"),
        ("triton", "http://"),
        ("127.0.0.1", "http://0x7f000001"),
        ("triton", "http://[not-an-address"),
    ],
)
def test_any_other_server_may_not(allowed, url):
    with pytest.raises(OipHostNotAllowed) as refused:
        AllowedHosts.of(allowed).need(url)
    assert "TEACHER_OIP_HOSTS" in refused.value.remedy


def test_the_refusal_lists_what_is_allowed():
    with pytest.raises(OipHostNotAllowed, match=r"evil:80 is not .*: triton:8000, \[::1\], other$"):
        AllowedHosts.of("triton:8000,[::1],other").need("http://evil")


@pytest.mark.parametrize(
    "text", ["http://triton", "triton:port", "triton:0", "triton:99999", "a b", "a/b", "[::1"]
)
def test_a_list_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="host or host:port"):
        AllowedHosts.of(text)


def test_a_model_of_a_server_that_is_not_on_the_list_is_not_asked(served):
    remote = RemoteModel(url=served[0], model=MODEL, input="pixels", output="scores")
    with pytest.raises(OipHostNotAllowed):
        OipModel(remote, AllowedHosts.of("127.0.0.1:1"))


def test_proxies_of_the_environment_are_not_taken(served, stub, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    model = model_at(served[0], binary=stub.binary)
    assert model.infer(PIXELS).shape == (6, 4)
    model.close()
