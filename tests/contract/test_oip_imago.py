"""A gateway of ours is a server like others: its student can be the teacher of another Imago."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from shared.adapters.oip import OipModel, OipServer
from shared.adapters.oip_hosts import AllowedHosts
from shared.adapters.oip_models import find_model
from shared.artefacts.store import ArtefactStore
from shared.errors import TeacherAnswerInvalid
from shared.jobs.memory_store import MemoryJobStore
from shared.serving.session import StudentSession
from tests.support.asgi_server import served
from tests.support.gateway_in_process import MemoryDispatcher
from tests.support.oip_requests import digits
from tests.support.student_bundles import DIGIT_INPUT, write_bundle


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtefactStore:
    store = ArtefactStore(tmp_path_factory.mktemp("gateway") / "store")
    store.students.publish("digits-1", lambda at: write_bundle(at, "digits-1"))
    store.students.promote("digits-1")
    return store


@pytest.fixture(scope="module")
def url(store: ArtefactStore) -> Iterator[str]:
    settings = GatewaySettings(state_dir=store.root.parent)
    with served(create_app(settings, jobs=MemoryJobStore(), dispatcher=MemoryDispatcher())) as address:
        yield address


@pytest.fixture
def server(url: str) -> Iterator[OipServer]:
    found = OipServer(url, AllowedHosts.of(urlsplit(url).netloc))
    yield found
    found.close()


def test_the_student_of_a_gateway_is_found_and_teaches_by_its_logits(url, server, store):
    remote, takes, classes = find_model(server, url=url, model="digits", output="logits")
    assert (remote.input, remote.output, remote.layout) == ("images", "logits", "NHWC")
    assert (remote.datatype, remote.binary, remote.rows) == ("uint8", True, 64)
    assert (takes.image, classes) == (DIGIT_INPUT, 10)
    student = StudentSession.load(store.students.file("digits-1", "card.json").parent)
    teacher = OipModel(remote, AllowedHosts.of(urlsplit(url).netloc))
    images = digits(150)
    np.testing.assert_allclose(teacher.infer(images), student.run(images)[0], atol=1e-5)
    teacher.close()


def test_a_model_that_is_not_there_is_refused_in_our_words(server):
    with pytest.raises(TeacherAnswerInvalid, match=r"status 404 .*there is no model 'nobody'"):
        server.model("nobody")
    assert not server.ready("nobody")
