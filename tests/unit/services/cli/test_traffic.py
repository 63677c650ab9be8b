"""`imago traffic` against a real gateway in this process."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from services.cli.app import main
from services.cli.commands.common import Outside
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from shared.artefacts.store import ArtefactStore
from shared.contracts.traffic import TrafficPolicy, TrafficView
from shared.jobs.memory_store import MemoryJobStore
from tests.support.gateway_in_process import InProcessGateway, MemoryDispatcher, TestClient

Imago = Callable[..., str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessGateway]:
    settings = GatewaySettings(state_dir=tmp_path_factory.mktemp("state"))
    jobs, dispatcher = MemoryJobStore(), MemoryDispatcher()
    with TestClient(create_app(settings, jobs=jobs, dispatcher=dispatcher)) as client:
        gateway = InProcessGateway(client, ArtefactStore(settings.store_dir), jobs, dispatcher)
        gateway.promote("digits-1")
        gateway.publish("digits-2")
        gateway.publish("digits-3")
        yield gateway


@pytest.fixture
def gateway(running: InProcessGateway) -> InProcessGateway:
    running.client.delete("/v1/traffic")
    return running


@pytest.fixture
def imago(
    gateway: InProcessGateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Imago:
    """Run `imago traffic …`, expect its exit status and return what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def answer(request: httpx.Request) -> httpx.Response:
        found = gateway.client.request(
            request.method, request.url.path, content=request.read(), headers=dict(request.headers)
        )
        return httpx.Response(found.status_code, headers=dict(found.headers), content=found.content)

    def run(*arguments: str, leaves: int = 0) -> str:
        outside = Outside(transport=httpx.MockTransport(answer))
        with pytest.raises(SystemExit) as left:
            main(("traffic", *arguments, "--gateway", "http://testserver"), outside)
        printed = capsys.readouterr()
        assert (left.value.code or 0) == leaves, printed.err
        return printed.out if leaves == 0 else printed.err

    return run


def policy(gateway: InProcessGateway) -> TrafficPolicy:
    return TrafficView.model_validate_json(gateway.client.get("/v1/traffic").content).policy


def test_parts_are_set_one_after_the_other_and_the_rest_stays(imago: Imago, gateway: InProcessGateway):
    imago("set", "--canary", "digits-2", "--canary-share", "0.1")
    imago("set", "--shadow", "digits-3", "--shadow-share", "0.5")
    imago("set", "--cascade-threshold", "0.9", "--keep", "unsure", "--no-keep-disagreed")
    imago("set", "--canary-share", "0.25")
    assert policy(gateway).model_dump(exclude_none=True) == {
        "canary": {"version": "digits-2", "share": 0.25},
        "shadow": {"to": "student", "version": "digits-3", "share": 0.5},
        "cascade": {"threshold": 0.9, "deadline_ms": 250},
        "keeping": {"collection": "unsure", "escalated": True, "disagreed": False, "most_images": 10_000},
    }


def test_a_shadow_student_gives_way_to_the_teacher(imago: Imago, gateway: InProcessGateway):
    imago("set", "--shadow", "digits-2", "--shadow-share", "0.5")
    imago("set", "--shadow-teacher")
    shadow = policy(gateway).shadow
    assert shadow is not None
    assert (shadow.to, shadow.version, shadow.share) == ("teacher", None, 0.5)


def test_a_policy_from_a_file_replaces_all_of_it(imago: Imago, gateway: InProcessGateway, tmp_path: Path):
    imago("set", "--canary", "digits-2", "--canary-share", "0.1")
    file = tmp_path / "policy.json"
    file.write_text('{"shadow": {"to": "teacher"}}')
    shown = imago("set", "--file", str(file))
    assert "copies of 100.00% of the requests go to the teacher" in shown
    assert policy(gateway).canary is None


def test_parts_are_switched_off_by_name_or_all_together(imago: Imago, gateway: InProcessGateway):
    imago("set", "--canary", "digits-2", "--canary-share", "0.1", "--shadow-teacher", "--keep", "unsure")
    imago("off", "canary", "keeping")
    assert set(policy(gateway).model_dump(exclude_none=True)) == {"shadow"}
    imago("off")
    assert policy(gateway) == TrafficPolicy()


def test_it_is_shown_in_words_and_as_json(imago: Imago):
    imago("set", "--canary", "digits-2", "--canary-share", "0.1", "--cascade-threshold", "0.8", "--keep", "a")
    shown = imago("show")
    assert "digits-2 answers 10.00% of the requests" in shown
    assert "the teacher answers below a confidence of 0.8, within 250 ms" in shown
    assert "escalated and disagreed images are kept in a, 10,000 at most" in shown
    assert json.loads(imago("show", "--json"))["policy"]["canary"]["version"] == "digits-2"


def test_what_cannot_hold_is_refused_by_the_gateway(imago: Imago, gateway: InProcessGateway):
    assert "student-not-found" in imago("set", "--canary", "digits-9", "--canary-share", "0.1", leaves=1)
    assert "share" in imago("set", "--canary", "digits-2", "--canary-share", "2", leaves=1)
    assert policy(gateway) == TrafficPolicy()


@pytest.mark.parametrize(
    "arguments",
    [
        ("set",),
        ("set", "--file", "-", "--shadow-teacher"),
        ("set", "--shadow", "digits-2", "--shadow-teacher"),
        ("set", "--cascade-threshold", "0.5", "--cascade-share", "0.1"),
        ("off", "everything"),
    ],
)
def test_what_makes_no_sense_is_a_misspelling(imago: Imago, arguments: tuple[str, ...]):
    imago(*arguments, leaves=2)
