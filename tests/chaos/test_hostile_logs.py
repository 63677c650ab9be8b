"""Names, headers, paths and bodies that would break a log: one object a line, and no secret in it."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.logs import JsonFormatter
from tests.chaos.hostile_client import RawClient, form, request
from tests.chaos.hostile_images import seeds
from tests.chaos.hostile_targets import Target, hostile_gateway
from tests.support.teachers import publish, start_teacher, stop

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SECRET = "imago_abcdefghijkl_" + "S3cr3t" * 7 + "x"
BODY = "a-body-that-nobody-may-see"
POISON = (
    b"a\x1b[31mred", b"\xe2\x80\xa8line", b"\xc2\x85next", b"\xed\xa0\x80lone", b"\xff\xfe",
    b"%0d%0a{\"at\":1}", b"\x7f", b"\t", b"{\"level\":\"info\"}", b"%s%s%n", b"${jndi:x}", b"a" * 60_000,
    b"\\u2028\\n", b"%E2%80%A8",
)  # fmt: skip
_RAW_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f-\xff]")
INTERNAL = re.compile(
    rb"Traceback|File \"|\.py\b|site-packages|/work|/root|/tmp|/home|services\.|shared\.|redis\.exc"
    rb"|0x[0-9a-f]{8}"
)


def poisoned(path: bytes) -> Iterator[bytes]:
    """Yield requests with each poison in its path, query, headers, names, fields and body."""
    for one in POISON:
        head = b"GET %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
        yield head % (b"/" + one.replace(b" ", b"+").replace(b"\t", b""), SECRET.encode()) + b"\r\n"
        yield (
            head % (path + b"?a=" + one.replace(b"\t", b"").replace(b"%", b"%25"), SECRET.encode()) + b"\r\n"
        )
        for header in (b"X-Request-ID", b"User-Agent", b"X-Canary-Key", b"X-Deadline-Ms", b"traceparent"):
            yield head % (path, SECRET.encode()) + header + b": " + one + b"\r\n\r\n"
        for target in (b"/v1/predictions", b"/v1/teachers/shapes/soft-targets?temperature=2"):
            media_type, body = form([(one, BODY.encode())], [(one, one), (b"b.png", BODY.encode())])
            yield request(b"POST", target, body, media_type)
            yield request(b"POST", target, seeds()[7], b"image/jpeg")
        yield request(
            b"POST", b"/v1/jobs", json.dumps({"name": BODY, "kind": one.decode("latin-1")}).encode()
        )
        yield request(b"POST", b"/v1/jobs", b'{"' + BODY.encode() + b'": "\\ud800", ' + one)


def check(target: Target, told: Callable[..., None], what: str) -> None:
    internal: dict[bytes, bytes] = {}
    anonymous = []
    unanswered = []
    asked = 0
    with RawClient(target.host, target.port) as client:
        for one in poisoned(b"/v1/teachers"):
            asked += 1
            status, body = client.ask(one)
            if not status:
                unanswered.append(one[:200])
            if status >= 400:
                found = INTERNAL.search(body.replace(one[:200], b""))
                if found:
                    internal[found[0]] = body[:300]
                problem = json.loads(body)
                if not problem["request_id"] or not problem["code"]:
                    anonymous.append(body)
    log = target.log.read_bytes()
    lines = log.splitlines() if b"\n" in log else []
    broken = [line[:200] for line in log.split(b"\n")[:-1] if not _is_object(line)]
    raw = _RAW_CONTROL.findall(log)
    secrets = [word for word in (SECRET.encode(), SECRET[-20:].encode(), BODY.encode()) if word in log]
    told(
        7,
        f"{asked} requests with poisoned names, headers and bodies at the {what}, all its log of DEBUG",
        f"{len(lines)} lines, broken {broken[:2] or 0}, control bytes {len(raw)}, secrets {secrets or 0}; "
        f"answers with internals {internal or 0}, without an id {anonymous[:2] or 0}, "
        f"unanswered {unanswered[:2] or 0}",
        "one JSON object a line, 0 control bytes, 0 secrets, 0 internals, each answered, each refusal with "
        "an id",
        held=len(lines) > asked / 2
        and not (broken or raw or secrets or internal or anonymous or unanswered)
        and target.is_same(),
    )


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line, parse_constant=_no_number), dict)
    except ValueError:
        return False


def _no_number(word: str) -> Any:
    raise ValueError(word)


def test_no_request_breaks_the_log_of_the_gateway(tmp_path: Path, told: Callable[..., None]):
    with hostile_gateway(tmp_path, LOG_LEVEL="DEBUG", GATEWAY_ACCESS_LOG="true") as target:
        check(target, told, "gateway")


def test_no_request_breaks_the_log_of_a_teacher(tmp_path: Path, told: Callable[..., None]):
    publish(tmp_path / "store")
    process, url = start_teacher(tmp_path, LOG_LEVEL="DEBUG")
    try:
        check(Target(url, process.pid, tmp_path / "teacher.log", tmp_path / "store"), told, "teacher")
    finally:
        stop(process)


@pytest.mark.parametrize(
    "given",
    [
        "a\nb\r\n\x1b[2J\x00\u2028\x85", "\ud800", "a" * 2**20, float("nan"), float("inf"), {("a",): 1},
        {1, 2}, b"\xff", object(), {"a": {"b": float("nan")}},
    ],
    ids=range(10),
)  # fmt: skip
def test_whatever_is_logged_is_one_object_a_line(given: object):
    loop: list[object] = []
    loop.append(loop)
    for value in (given, [given], loop):
        record = logging.makeLogRecord({"name": "a\nb", "msg": "%s", "args": (given,), "given": value})
        line = JsonFormatter("gateway").format(record)
        assert "\n" not in line
        assert not _RAW_CONTROL.search(line.encode())
        assert _is_object(line.encode())
