"""A teacher behind a server, asked over the endpoint: what a client sees when that server fails."""

from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from services.teacher.app import create_app
from services.teacher.settings import TeacherSettings
from shared.adapters import oip
from shared.adapters.oip import OipModel
from shared.adapters.oip_hosts import AllowedHosts
from shared.adapters.teacher_wire import refusal
from shared.contracts.teachers import RemoteModel
from shared.errors import TeacherChanged
from shared.models.probes import PROBE, make_probe
from shared.models.remote import RemoteTeacher
from tests.support.any_teachers import described, publish_mixed, publish_model
from tests.support.asgi_server import served
from tests.support.oip_server import MODEL, stub_server
from tests.support.onnx_graphs import linear_logits, linear_weights
from tests.support.teachers import INPUT, publish, random_images

SAFETENSORS = "application/vnd.safetensors"
IMAGES = random_images(5)


@pytest.fixture(scope="module")
def server():
    with stub_server(binary=True) as found:
        yield found


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    url, _ = server
    allowed = AllowedHosts.of(urlsplit(url).netloc)
    settings = TeacherSettings(
        state_dir=tmp_path_factory.mktemp("far"),
        device="cpu",
        oip_hosts=allowed,
        oip_timeout_s=0.3,
        oip_probe_s=0.0,
    )
    remote = RemoteModel(url=url, model=MODEL, input="pixels", output="scores", binary=True)
    asked = OipModel(remote, allowed)
    draft = RemoteTeacher(described(remote), asked, None)
    probe = make_probe(lambda images: draft.member_logits(torch.from_numpy(images))[0].numpy(), INPUT)
    far = publish_model(settings.store_dir, "far", remote, {PROBE: probe})
    publish_mixed(settings.store_dir, [far, publish(settings.store_dir)])
    elsewhere = remote.model_copy(update={"url": "http://models.example"})
    publish_model(settings.store_dir, "not-allowed", elsewhere, {PROBE: probe})
    with served(create_app(settings)) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.fixture
def stub(server, monkeypatch):
    monkeypatch.setattr(oip, "_FIRST_WAIT_S", 0.001)
    server[1].fault = None
    yield server[1]
    server[1].fault = None


def ask(client, name: str = "far"):
    return client.post(
        f"/v1/teachers/{name}/soft-targets",
        params={"temperature": 2.0},
        content=save({"images": IMAGES}),
        headers={"Content-Type": SAFETENSORS, "Accept": SAFETENSORS},
    )


def test_it_answers_as_any_teacher(client, stub):
    logits = linear_logits(IMAGES, *linear_weights(), 0.25, 0.5) / 2
    response = ask(client)
    assert response.status_code == 200, response.text
    np.testing.assert_allclose(
        load(response.content)["logits"], logits - logits.mean(-1, keepdims=True), atol=1e-5
    )
    view = client.get("/v1/teachers/far").json()
    assert (view["model"]["kind"], view["tempers"]) == ("oip", True)


@pytest.mark.parametrize("name", ["far", "mixed"])
def test_a_server_that_is_down_is_503_with_the_time_it_names_and_answers_when_it_is_back(client, stub, name):
    assert ask(client, name).status_code == 200
    stub.fault = "down"
    response = ask(client, name)
    assert (response.status_code, response.json()["code"]) == (503, "teacher-unavailable")
    assert response.headers["Retry-After"] == "7"
    stub.fault = None
    assert ask(client, name).status_code == 200


def test_a_server_that_is_slow_is_503_and_holds_up_no_other_teacher(client, stub):
    assert ask(client).status_code == 200
    stub.fault = "slow"
    response = ask(client)
    assert (response.status_code, response.json()["code"]) == (503, "teacher-unavailable")
    assert "no answer in 0.3 s" in response.json()["detail"]
    assert ask(client, "shapes").status_code == 200


def test_a_server_that_changed_is_409(client, stub):
    assert ask(client).status_code == 200
    stub.fault = "changed"
    response = ask(client)
    assert (response.status_code, response.json()["code"]) == (409, "teacher-changed")
    assert "probe images" in response.json()["detail"]
    error = refusal(response, "far")  # as our own client hands it on
    assert isinstance(error, TeacherChanged)
    assert str(error) == response.json()["detail"]
    assert "Add the teacher again" in error.remedy


def test_rows_that_a_server_answers_with_nan_are_named(client, stub, monkeypatch):
    infer = stub.infer

    def one_row_broken(pixels: np.ndarray) -> np.ndarray:
        scores = infer(pixels)
        if len(pixels) == len(IMAGES):  # and not the probe
            scores[3] = np.nan
        return scores

    assert ask(client).status_code == 200
    monkeypatch.setattr(stub, "infer", one_row_broken)
    response = ask(client)
    assert response.json()["code"] == "teacher-answer-invalid"
    assert "3" in response.json()["detail"]


def test_a_server_that_is_not_on_the_list_is_a_refusal(client, stub):
    response = ask(client, "not-allowed")
    assert (response.status_code, response.json()["code"]) == (422, "oip-host-not-allowed")
    assert "TEACHER_OIP_HOSTS" in response.json()["remedy"]
