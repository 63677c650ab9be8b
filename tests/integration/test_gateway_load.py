"""A real gateway under more load than it can take: it stays fair, refuses at once, and says that it lives."""

import selectors
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.artefacts.store import ArtefactStore
from tests.support.gateway_in_process import image_file
from tests.support.gateway_process import GatewayProcess
from tests.support.student_bundles import mlp_onnx, write_bundle

pytestmark = pytest.mark.integration

LIVENESS = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
QUICK, SLOW = (64,), (2000, 2000)
"""Hidden units of a student that runs on the event loop, and of one that runs in a thread."""


def prediction() -> bytes:
    body = image_file()
    return f"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def gateway(at: Path, redis_url: str, hidden: tuple[int, ...], **settings: str) -> Iterator[GatewayProcess]:
    students = ArtefactStore(at / "store").students
    students.publish("digits-1", lambda folder: write_bundle(folder, "digits-1", mlp_onnx(hidden=hidden)))
    students.promote("digits-1")
    started = GatewayProcess(at, redis_url, **settings).start()
    try:
        yield started
    finally:
        started.stop()


Answers = dict[int, list[tuple[float, bytes]]]
"""By connection: how long each answer took in seconds, and the answer."""


def is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    return bool(found) and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])


def load(port: int, requests: list[bytes], seconds: float) -> Answers:
    """Send each request on a connection of its own, again as soon as it is answered."""
    answers: Answers = defaultdict(list)
    sent: dict[int, float] = {}
    received: dict[int, bytes] = defaultdict(bytes)
    with selectors.DefaultSelector() as selector:
        for number, request in enumerate(requests):
            connection = socket.create_connection(("127.0.0.1", port))
            selector.register(connection, selectors.EVENT_READ, number)
            sent[number] = time.perf_counter()
            connection.sendall(request)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for key, _ in selector.select(0.2):
                connection = key.fileobj
                piece = connection.recv(65_536)
                assert piece, f"closed in place of an answer, after {received[key.data]!r}"
                received[key.data] += piece
                # Head and body may come apart: to take them for two answers would send ever more ahead.
                if is_whole(received[key.data]):
                    answers[key.data].append((time.perf_counter() - sent[key.data], received.pop(key.data)))
                    sent[key.data] = time.perf_counter()
                    connection.sendall(requests[key.data])
        for key in list(selector.get_map().values()):
            key.fileobj.close()
    return answers


@pytest.mark.parametrize("hidden", [QUICK, SLOW])
def test_of_64_connections_none_is_answered_much_less_often_than_the_others(tmp_path, redis_url, hidden):
    with gateway(tmp_path, redis_url, hidden) as started:
        answers = load(started.port, [prediction()] * 64, seconds=1.5)
    counts = sorted(len(answers[number]) for number in range(64))
    assert counts[0] >= statistics.median(counts) / 2
    assert all(answer.startswith(b"HTTP/1.1 200") for one in answers.values() for _, answer in one)


def test_neither_liveness_nor_a_refusal_waits_for_the_student(tmp_path, redis_url):
    with gateway(tmp_path, redis_url, SLOW, GATEWAY_MAX_QUEUED="4") as started:
        answers = load(started.port, [LIVENESS] + [prediction()] * 32, seconds=2.0)
    alive = [taken for taken, _ in answers.pop(0)]
    every = [found for one in answers.values() for found in one]
    refused = [(taken, answer) for taken, answer in every if answer.startswith(b"HTTP/1.1 503")]
    answered = [taken for taken, answer in every if answer.startswith(b"HTTP/1.1 200")]
    assert all(b"retry-after: 1\r\n" in answer and b"queue-full" in answer for _, answer in refused)
    # Beside those who do wait: how long that is in seconds depends on the machine and on who else uses it.
    assert statistics.median(alive) < statistics.median(answered)
    assert statistics.median(taken for taken, _ in refused) < statistics.median(answered)
