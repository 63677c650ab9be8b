"""What every server of the Open Inference Protocol must do for us: the stub, a real MLServer, a real Triton.

Name a Python that has `mlserver` in IMAGO_TEST_MLSERVER_PYTHON, and one that has `nvidia-pytriton` in
IMAGO_TEST_TRITON_PYTHON, to run these tests against real ones, each in an environment of its own:
`python -m venv /tmp/mlserver && /tmp/mlserver/bin/pip install mlserver`.
"""

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

from services.teacher.models import Teachers
from shared.adapters.oip import OipModel, OipServer
from shared.adapters.oip_hosts import AllowedHosts
from shared.adapters.oip_models import find_model
from shared.artefacts.store import ArtefactStore
from shared.contracts.teachers import RemoteModel
from shared.errors import TeacherAnswerInvalid
from shared.models.making import Means, teacher_of
from shared.models.probes import make_probe
from tests.support.any_teachers import described, publish_mixed, publish_model
from tests.support.oip_server import MLSERVER_PYTHON, MODEL, TRITON_PYTHON, mlserver, stub_server, triton
from tests.support.onnx_graphs import linear_logits, linear_weights
from tests.support.teachers import INPUT, publish, random_images

IMAGES = random_images(11)
NORMALISED = ((IMAGES / 255 - 0.25) / 0.5).astype(np.float32).transpose(0, 3, 1, 2)
LOGITS = linear_logits(IMAGES, *linear_weights(), 0.25, 0.5)


REAL = {"mlserver": (mlserver, MLSERVER_PYTHON), "triton": (triton, TRITON_PYTHON)}


def real(name: str) -> Any:
    """Return a parameter that is skipped where the environment names no such server."""
    variable = REAL[name][1]
    missing = pytest.mark.skipif(
        variable not in os.environ, reason=f"{variable} names no Python with it; the stub stands for {name}"
    )
    return pytest.param(name, marks=[pytest.mark.integration, missing])


@pytest.fixture(params=["stub-json", "stub-binary", real("mlserver"), real("triton")], scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param in REAL:
        with REAL[request.param][0](tmp_path_factory.mktemp(request.param)) as address:
            yield address
    else:
        with stub_server(binary=request.param == "stub-binary") as (address, _):
            yield address


@pytest.fixture
def allowed(url: str) -> AllowedHosts:
    return AllowedHosts.of(urlsplit(url).netloc)


@pytest.fixture
def server(url: str, allowed: AllowedHosts) -> Iterator[OipServer]:
    found = OipServer(url, allowed)
    yield found
    found.close()


@pytest.fixture
def remote(url: str, server: OipServer) -> RemoteModel:
    return find_model(server, url=url, model=MODEL)[0]


def test_a_server_and_its_model_say_how_it_is_asked(url, server):
    remote, takes, classes = find_model(server, url=url, model=MODEL)
    assert (remote.input, remote.output, remote.layout) == ("pixels", "scores", "NCHW")
    assert (remote.datatype, remote.answers) == ("float32", "logits")
    said = server.metadata()
    assert remote.binary == ("binary_tensor_data" in said.extensions or said.name == "kserve")
    # As many as make a good request, or as its configuration allows.
    assert remote.rows == (16 if "model_configuration" in said.extensions else 64)
    assert (takes.image, classes) == (INPUT, 4)
    assert server.ready(MODEL)


def test_numbers_come_back_as_the_formula_has_them(server, remote):
    np.testing.assert_allclose(server.infer(remote, NORMALISED), LOGITS, atol=1e-5)


def test_many_images_are_asked_about_by_calls_side_by_side_and_keep_their_order(remote, allowed):
    model = OipModel(remote.model_copy(update={"rows": 3}), allowed)
    np.testing.assert_allclose(model.infer(NORMALISED), LOGITS, atol=1e-5)
    assert model.most_rows == 12
    model.close()


def test_numbers_that_are_not_finite_come_as_they_are(server, remote):
    broken = NORMALISED.copy()
    broken[4] = 3e38
    found = server.infer(remote, broken)
    assert not np.isfinite(found[4]).all()
    np.testing.assert_allclose(np.delete(found, 4, 0), np.delete(LOGITS, 4, 0), atol=1e-5)


def test_a_model_that_is_not_there_is_refused_in_the_servers_words(server, remote):
    with pytest.raises(TeacherAnswerInvalid, match=r"status 404 .*nobody.* not found"):
        server.model("nobody")
    with pytest.raises(TeacherAnswerInvalid, match=r"status 404 .*nobody.* not found"):
        server.infer(remote.model_copy(update={"model": "nobody"}), NORMALISED)
    assert not server.ready("nobody")


def test_an_output_that_the_model_has_not_is_refused(server, remote):
    with pytest.raises(TeacherAnswerInvalid):
        server.infer(remote.model_copy(update={"output": "embedding-2"}), NORMALISED)


def test_a_model_on_a_server_is_added_and_teaches_alone_and_in_company(tmp_path, remote, allowed):
    means = Means(
        file=tmp_path.joinpath,
        server=lambda model: OipModel(model, allowed),
        member=lambda _member: pytest.fail("it has no members"),
        device=torch.device("cpu"),
    )
    draft = teacher_of(described(remote, name="far"), means)
    probe = make_probe(lambda images: draft.member_logits(torch.from_numpy(images))[0].numpy(), INPUT)
    far = publish_model(tmp_path, "far", remote, {"probe.safetensors": probe})
    publish_mixed(tmp_path, [far, publish(tmp_path)])
    teachers = Teachers(
        ArtefactStore(tmp_path).teachers, device=torch.device("cpu"), max_held=3, oip_hosts=allowed
    )
    description, held = teachers.hold("far")
    assert (description, held.elsewhere) == (far, True)
    found = held.softened_logits(torch.from_numpy(IMAGES), temperature=4.0)
    np.testing.assert_allclose(found.numpy(), (LOGITS - LOGITS.mean(-1, keepdims=True)) / 4, atol=1e-5)
    near = teachers.hold("shapes")[1].softened_logits(torch.from_numpy(IMAGES), temperature=4.0)
    together = teachers.hold("mixed")[1].softened_logits(torch.from_numpy(IMAGES), temperature=4.0)
    torch.testing.assert_close(together, (found + near) / 2, atol=1e-5, rtol=1e-5)
