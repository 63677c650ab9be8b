"""The teacher service as its own process, over HTTP."""

import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save

from services.teacher.ledger import BLOCK_ROWS
from shared.artefacts.keys import KeyStore
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.keys import KeyLimits, KeyRequest, Scope
from tests.support.teachers import (
    expected_logits,
    publish,
    random_images,
    random_tensors,
    start_teacher,
    teacher_process,
)

pytestmark = pytest.mark.integration

SAFETENSORS = "application/vnd.safetensors"
FORM = {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS}
WIDE = (4096, 4096, 4096)
"""Hidden units of a teacher whose forward pass takes a while."""


def ask(url: str, images: np.ndarray, *, name: str = "shapes", temperature: float = 4.0) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/teachers/{name}/soft-targets",
        params={"temperature": temperature},
        content=save({"images": images}),
        headers=FORM,
        timeout=60,
    )


def metric(url: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


def publish_slow(state_dir) -> None:
    publish(
        state_dir / "store",
        "slow",
        tensors=random_tensors(hidden=WIDE),
        architecture=Mlp(hidden_units=WIDE),
    )


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def url(state_dir):
    publish_slow(state_dir)
    with teacher_process(
        state_dir, TEACHER_MAX_BATCH_ROWS="256", TEACHER_QUEUE_ROWS="600", TEACHER_MAX_ROWS="600"
    ) as url:
        yield url


@pytest.mark.parametrize("merge", ["geometric", "arithmetic"])
def test_a_teacher_published_while_the_service_runs_answers_by_the_formula(url, state_dir, merge):
    publish(state_dir / "store", merge, members=3, merge=merge, seed=5)
    images = random_images(9)
    for temperature in (1.0, 8.0):
        found = load(ask(url, images, name=merge, temperature=temperature).content)["logits"]
        expected = expected_logits(
            random_tensors(members=3, seed=5), images, temperature=temperature, merge=merge
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_concurrent_clients_share_forward_passes_and_each_gets_its_own_rows(url):
    batches = [random_images(10, seed=seed) for seed in range(24)]
    ask(url, batches[0], name="slow")  # loaded
    before = metric(url, "imago_teacher_batch_rows_count")
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda images: ask(url, images, name="slow"), batches))
    assert metric(url, "imago_teacher_batch_rows_count") - before < len(batches)
    expected = expected_logits(random_tensors(hidden=WIDE), np.concatenate(batches), temperature=4.0)
    found = np.concatenate([load(answer.content)["logits"] for answer in answers])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_request_larger_than_a_batch_comes_back_whole(url, state_dir):
    publish(state_dir / "store", "shapes")
    images = random_images(600)
    found = load(ask(url, images).content)["logits"]
    np.testing.assert_allclose(
        found, expected_logits(random_tensors(), images, temperature=4.0), rtol=1e-4, atol=1e-5
    )


def test_more_than_the_queue_takes_is_503_with_retry_after_and_health_answers_meanwhile(url):
    images = random_images(500)
    alive = 0
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, url, images, name="slow") for _ in range(8)]
        while not all(future.done() for future in asked):
            assert httpx.get(f"{url}/health/live").status_code == 200
            alive += 1
    answers = [future.result() for future in asked]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert len(refused) < len(answers)
    for answer in refused:
        assert answer.json()["code"] == "queue-full"
        assert int(answer.headers["Retry-After"]) >= 1
    assert {answer.status_code for answer in answers} == {200, 503}
    assert alive > 2, "the event loop was blocked"


def test_rows_of_a_client_that_has_gone_are_not_computed(url):
    before = metric(url, "imago_teacher_rows_total")
    body = save({"images": random_images(300)})
    head = (
        b"POST /v1/teachers/slow/soft-targets?temperature=1 HTTP/1.1\r\nHost: x\r\n"
        + f"Content-Type: {SAFETENSORS}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    with ThreadPoolExecutor(2) as pool:
        # One batch computes and another waits: whoever comes and goes now has not had its turn.
        others = [pool.submit(ask, url, random_images(256), name="slow") for _ in range(2)]
        while metric(url, "imago_teacher_queue_rows") < 256:
            assert not all(other.done() for other in others)
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as connection:
            connection.sendall(head + body)
        assert [other.result().status_code for other in others] == [200, 200]
    ask(url, random_images(1), name="slow")
    assert metric(url, "imago_teacher_rows_total") - before == 256 + 256 + 1


def test_sigterm_lets_requests_in_flight_end_and_only_then_ends_the_process(tmp_path):
    publish_slow(tmp_path)
    process, url = start_teacher(tmp_path)
    ask(url, random_images(1), name="slow")
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(url, random_images(1000), name="slow")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while metric(url, "imago_teacher_queue_rows") == 0:
        pass
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert process.wait(20) == 0
    assert '"event": "stopped"' in (tmp_path / "teacher.log").read_text()


def test_a_wrong_setting_is_told_and_the_process_leaves_with_2(tmp_path):
    with pytest.raises(AssertionError, match="TEACHER_DEVICE"):
        start_teacher(tmp_path, TEACHER_DEVICE="tpu")


def test_without_keys_it_listens_on_loopback_only_and_says_that_they_are_off(tmp_path):
    with pytest.raises(AssertionError, match=r"TEACHER_HOST: 0\.0\.0\.0 is no loopback address"):
        start_teacher(tmp_path, TEACHER_HOST="0.0.0.0")
    with teacher_process(tmp_path) as url:
        assert httpx.get(f"{url}/v1/teachers").status_code == 200
    assert "keys are off" in (tmp_path / "teacher.log").read_text()


def test_with_keys_it_starts_with_one_only_and_with_a_place_to_note_what_they_take(tmp_path):
    with pytest.raises(AssertionError, match="IMAGO_AUTH"):
        start_teacher(tmp_path, IMAGO_AUTH="keys")
    KeyStore(tmp_path / "store").make(KeyRequest(name="a", owner="a", scopes=(Scope.TEACH,)))
    (tmp_path / "file").write_text("")
    with pytest.raises(AssertionError, match="TEACHER_LEDGER_DIR"):
        start_teacher(tmp_path, IMAGO_AUTH="keys", TEACHER_LEDGER_DIR=str(tmp_path / "file" / "ledger"))


def test_killing_it_gives_no_row_of_a_budget_away(tmp_path):
    """What it had taken ahead is lost, and that is a block at most."""
    publish(tmp_path / "store")
    ArtefactStore(tmp_path / "store").owners.add("teachers", "shapes", "a")
    limits = KeyLimits(teacher_rows=3_000)
    made = KeyStore(tmp_path / "store").make(
        KeyRequest(name="a", owner="a", scopes=(Scope.TEACH,), limits=limits)
    )
    headers = FORM | {"Authorization": f"Bearer {made.key}"}
    answered, kills, status = 0, 0, 200
    while status == 200:
        process, url = start_teacher(tmp_path, IMAGO_AUTH="keys", TEACHER_LEDGER_DIR=str(tmp_path / "ledger"))
        for _ in range(4 if kills < 2 else 1_000):
            response = httpx.post(
                f"{url}/v1/teachers/shapes/soft-targets",
                params={"temperature": 1},
                content=save({"images": random_images(100)}),
                headers=headers,
            )
            status = response.status_code
            if status != 200:
                break
            answered += 100
        process.kill()
        process.wait()
        kills += 1
    assert response.json()["code"] == "teacher-budget-spent"
    assert 3_000 - kills * BLOCK_ROWS <= answered <= 3_000
