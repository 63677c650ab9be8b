"""Every operation of both services, asked with what its OpenAPI document allows and with what it does not.

The real apps in this process, with a real artefact store and a job store in memory. The worker's health
server has no such document: it is sent noise.
"""

import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from prometheus_client import CollectorRegistry
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import ASGIApp

from services.gateway.app import create_app as gateway_app
from services.gateway.settings import GatewaySettings
from services.teacher.app import create_app as teacher_app
from services.teacher.settings import TeacherSettings
from services.worker.health import HealthServer
from shared.artefacts.store import ArtefactStore
from shared.jobs.memory_store import MemoryJobStore
from tests.support.gateway_in_process import MemoryDispatcher
from tests.support.student_bundles import write_bundle
from tests.support.teachers import publish
from tests.support.teachers_at_rest import publish_teacher

pytestmark = [
    pytest.mark.slow,
    # The apps make request ids while a case is drawn.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
]  # fmt: skip
# A promoted student that is not there, or Redis that is away: documented refusals, and no error of ours.
REFUSALS = {501, 503, 504}


Found = tuple[Counter[int], list[str]]
"""How often each status was answered, and what was wrong, each kind once."""


def ask_all(app: ASGIApp, count: int, *, every: int = 1) -> Found:
    """Send `count` cases or a few more, over each `every`th operation."""
    statuses: Counter[int] = Counter()
    wrong: dict[tuple[str, str], str] = {}
    with asgi.get_client(app, max_stream_events=3) as client:
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        operations = [found.ok() for found in schema.get_all_operations()][::every]
        modes = [
            (operation, mode)
            for operation in operations
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        ]
        seed = 0
        while modes and statuses.total() < count:  # what falls short is told
            seed += 1
            for operation, mode in list(modes):
                operation.app = app
                before, wanted = statuses.total(), max(4, (count - statuses.total()) // len(modes))
                _ask(operation, mode, seed, wanted, client, statuses, wrong)
                if statuses.total() - before < wanted:
                    modes.remove((operation, mode))  # there is no more to be asked of it
    return statuses, list(wrong.values())


def _ask(operation, mode, seed, examples, client, statuses, wrong):  # type: ignore[no-untyped-def]
    name = f"{operation.method.upper()} {operation.path}"

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def once(case: schemathesis.Case) -> None:
        response = case.call(base_url="http://testserver", session=client)
        statuses[response.status_code] += 1
        if (
            response.status_code in REFUSALS
            and str(response.status_code) in operation.definition.raw["responses"]
        ):
            return
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                kind = type(failure).__name__
                found = f"{name}: {kind}: {response.status_code} {response.text[:200]}"
                found += f" after {case.as_curl_command()[:400]}"
                wrong.setdefault((name, kind + str(response.status_code)), found)

    with suppress(hypothesis.errors.Unsatisfiable):  # where nothing that it takes can be wrong
        once()


@contextmanager
def gateway(state: Path, **settings: object) -> Iterator[ASGIApp]:
    store = ArtefactStore(state / "store")
    for version in ("digits-1", "digits-2"):
        store.students.publish(version, lambda at, version=version: write_bundle(at, version))
    store.students.promote("digits-1")
    publish_teacher(store, "digits-teacher")
    yield gateway_app(
        GatewaySettings(state_dir=state, **settings), jobs=MemoryJobStore(), dispatcher=MemoryDispatcher()
    )


def test_the_gateway_does_what_its_document_says(
    tmp_path: Path, sized: Callable[..., int], told: Callable[..., None]
):
    count = sized(150, 5_000)
    began = time.monotonic()
    with gateway(tmp_path) as app:
        statuses, wrong = ask_all(app, count, every=sized(5, 1))
    _tell(told, "gateway", count, statuses, wrong, time.monotonic() - began)


def test_a_teacher_does_what_its_document_says(
    tmp_path: Path, sized: Callable[..., int], told: Callable[..., None]
):
    count = sized(100, 5_000)
    began = time.monotonic()
    publish(tmp_path / "store")
    app = teacher_app(TeacherSettings(state_dir=tmp_path, device="cpu", threads=1))
    statuses, wrong = ask_all(app, count)
    _tell(told, "teacher", count, statuses, wrong, time.monotonic() - began)


def _tell(told, service, count, statuses, wrong, took_s):  # type: ignore[no-untyped-def]
    for one in wrong:
        print(one)
    asked = sum(statuses.values())
    told(
        7,
        f"{asked:,} cases of schemathesis at the {service}",
        f"{dict(sorted(statuses.items()))}; not as documented {len(wrong)}; {took_s:.0f} s",
        f">= {count:,} cases, 0 server errors, 0 undocumented statuses, media types or bodies",
        held=not wrong and asked >= count and 500 not in statuses,
    )


def test_the_health_server_of_the_worker_stands_noise(sized: Callable[..., int], told: Callable[..., None]):
    count = sized(300, 5_000)
    chance = random.Random(4)
    server = HealthServer("127.0.0.1", 0, lambda: {"redis": True}, CollectorRegistry())
    server.start()
    statuses: Counter[bytes] = Counter()
    methods = (b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"TRACE", b"\xff", b"get", b"A" * 300)
    try:
        for _ in range(count):
            path = chance.choice(
                (b"/health/live", b"/metrics", b"/../etc/passwd", b"/" + chance.randbytes(20), b"/%00")
            )
            line = (
                chance.choice(methods) + b" " + path + chance.choice((b" HTTP/1.1", b" HTTP/9", b"", b" x"))
            )
            noise = chance.choice((b"", b"X: " + b"a" * 70_000, b"X: a\r\n" * 200, chance.randbytes(200)))
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                try:
                    connection.sendall(line + b"\r\nConnection: close\r\n" + noise + b"\r\n\r\n")
                    connection.shutdown(socket.SHUT_WR)
                    statuses[connection.recv(64)[9:12]] += 1
                except OSError:
                    statuses[b"end"] += 1
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
            alive = b" 200 " in connection.recv(64)
    finally:
        server.close()
    # 501 is what Python's server says to a method that it does not know, 505 to a version.
    bad = {status for status in statuses if status.startswith(b"5") and status not in (b"501", b"505")}
    told(
        7,
        f"{count:,} random requests at the worker's health server",
        f"{ {key.decode('latin-1'): n for key, n in statuses.items()} }, alive afterwards {alive}",
        "no error of the server, it answers on",
        held=alive and not bad,
    )
