"""Mutated images and bombs, at the gateway on each of its ways in, at a teacher, and inside a dataset."""

import asyncio
import io
import json
import random
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

import httpx
import psutil
import pytest
from safetensors.numpy import save

from tests.chaos.hostile_client import form, request
from tests.chaos.hostile_images import DEFUSED, bombs, mutants, png
from tests.chaos.hostile_memory import most_memory
from tests.chaos.hostile_targets import Target, hostile_gateway
from tests.support.gateway_in_process import image_file
from tests.support.teachers import publish, random_images, start_teacher, stop

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CLIENTS = 8


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with hostile_gateway(tmp_path_factory.mktemp("images")) as target:
        yield target


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    state = tmp_path_factory.mktemp("teacher")
    publish(state / "store")
    process, url = start_teacher(state)
    try:
        yield Target(url, process.pid, state / "teacher.log", state / "store")
        assert process.poll() is None, "the teacher has died"
    finally:
        stop(process)


# --- requests ----------------------------------------------------------------------------------------------


def _form(*images: bytes) -> tuple[bytes, bytes]:
    """Return media type and body."""
    return form((), [(b"a.png", one) for one in images], b"images")


def _in_a_form(path: bytes, *images: bytes, chunked: bool = False) -> bytes:
    media_type, body = _form(*images)
    return request(b"POST", path, body, media_type, chunked=chunked)


def _inference(image: bytes) -> bytes:
    tensor = {
        "name": "encoded", "datatype": "BYTES", "shape": [1],
        "parameters": {"binary_data_size": 4 + len(image)},
    }  # fmt: skip
    text = json.dumps({"inputs": [tensor]}).encode()
    body = text + len(image).to_bytes(4, "little") + image
    head = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\n"
    return (head + b"Content-Length: %d\r\n\r\n%b") % (len(text), len(body), body)


PREDICTIONS = b"/v1/predictions"
WAYS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "the short way": (8, lambda one: request(b"POST", PREDICTIONS, one, b"image/png")),
    "a form": (3, lambda one: _in_a_form(PREDICTIONS, one)),
    "a form of three": (2, lambda one: _in_a_form(PREDICTIONS, image_file(), one, one)),
    "the app": (3, lambda one: request(b"POST", PREDICTIONS, one, b"application/octet-stream", chunked=True)),
    "a form in the app": (2, lambda one: _in_a_form(PREDICTIONS, one, chunked=True)),
    "inference": (2, _inference),
}
"""With their shares."""


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:")
    await reader.readexactly(length)
    if b"connection: close" in head.lower():
        raise ConnectionResetError
    return int(head[9:12])


async def send_mutants(target: Target, requests: Iterator[bytes]) -> tuple[Counter[int], int]:
    """Send all requests; return the statuses, and how many found their connection broken."""
    statuses: Counter[int] = Counter()
    broken = 0

    async def client() -> None:
        nonlocal broken
        reader = writer = None
        for one in requests:
            if writer is None:
                reader, writer = await asyncio.open_connection(target.host, target.port)
            assert reader is not None
            try:
                statuses[await asyncio.wait_for(_ask(reader, writer, one), 60)] += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                broken += 1
                writer.transport.abort()
                writer = None
        if writer is not None:
            writer.transport.abort()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return statuses, broken


def mutated_requests(count: int) -> Iterator[bytes]:
    ways = [way for share, way in WAYS.values() for _ in range(share)]
    chance = random.Random(1)
    return (chance.choice(ways)(one) for one in islice(mutants(1), count))


def test_mutated_images_are_answered_and_harm_nobody(
    gateway: Target, sized: Callable[..., int], told: Callable[..., None]
):
    count = sized(1_500, 100_000)
    asyncio.run(send_mutants(gateway, mutated_requests(300)))  # until every way was gone once
    gateway.rss_before = gateway.rss()
    began = time.monotonic()
    statuses, broken = asyncio.run(send_mutants(gateway, mutated_requests(count)))
    took_s = time.monotonic() - began
    log = gateway.log.read_text()
    told(
        7,
        f"{count:,} mutated images on {len(WAYS)} ways into the gateway",
        f"{dict(sorted(statuses.items()))}, connections broken {broken}, memory +{gateway.grown():.0f} MiB, "
        f"{took_s:.0f} s",
        "0 x 5xx, 0 broken, 0 tracebacks, memory + < 64 MiB, the same process",
        held=sum(statuses.values()) == count
        and all(status < 500 for status in statuses)
        and not broken
        and "Traceback" not in log
        and gateway.grown() < 64
        and gateway.is_same(),
    )
    assert statuses[200]
    assert statuses[422]


def test_mutated_images_are_answered_by_a_teacher(
    teacher: Target, sized: Callable[..., int], told: Callable[..., None]
):
    count = sized(150, 10_000)
    path = b"/v1/teachers/shapes/soft-targets?temperature=2"
    requests = (_in_a_form(path, one) for one in islice(mutants(2), count))
    statuses, broken = asyncio.run(send_mutants(teacher, requests))
    chance = random.Random(3)
    whole = save({"images": random_images(3)})
    tensors = []
    for _ in range(count // 5):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = bytes(data[: chance.randint(1, 400)])
        tensors.append(request(b"POST", path, cut, b"application/vnd.safetensors"))
    more, more_broken = asyncio.run(send_mutants(teacher, iter(tensors)))
    told(
        7,
        f"{count:,} mutated images and {len(tensors):,} mutated tensors at a teacher",
        f"{dict(sorted((statuses + more).items()))}, connections broken {broken + more_broken}",
        "0 x 5xx, 0 broken, 0 tracebacks, the same process",
        held=all(status < 500 for status in statuses + more)
        and not broken + more_broken
        and "Traceback" not in teacher.log.read_text()
        and teacher.is_same(),
    )


# --- bombs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["raw", "form", "app"])
def test_bombs_are_refused_in_little_memory_and_time(
    gateway: Target, way: str, sized: Callable[..., bool], told: Callable[..., None]
):
    process = psutil.Process(next(iter(gateway.pids))[0])
    found = {}
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        for name, data in bombs().items():
            media_type, body = _form(data) if way == "form" else (b"image/png", data)
            content = body if way != "app" else iter([body])
            headers = {"Content-Type": media_type.decode()}
            before, rss = sum(process.cpu_times()[:2]), gateway.rss()
            status = client.post("/v1/predictions", content=content, headers=headers).status_code
            work_s = sum(process.cpu_times()[:2]) - before
            found[name] = status, 1000 * work_s, (gateway.rss() - rss) / 2**20
    worst_ms = max(ms for _, ms, _ in found.values())
    worst_mib = max(mib for _, _, mib in found.values())
    refused = {name: status for name, (status, _, _) in found.items() if not 400 <= status < 500}
    refused.pop(DEFUSED, None)
    # A clock of the kernel ticks each 10 ms; taking in 9 MB of a body is a part of the work.
    most_ms = sized(500, 50)
    told(
        7,
        f"{len(found)} image bombs ({way})",
        f"not refused {refused or 'none'}, dearest {worst_ms:.0f} ms and {worst_mib:.0f} MiB",
        f"each 4xx, < {most_ms} ms of work, memory + < 64 MiB",
        held=not refused and worst_ms < most_ms and worst_mib < 64 and gateway.is_same(),
    )


def test_bombs_take_no_memory_while_they_are_looked_at(told: Callable[..., None]):
    grown = most_memory(bombs() | {"as large as can be": png(4_900, 4_900)})
    taken = grown.pop("as large as can be")
    assert taken[0] > 20, "the measure does not see what a large image takes"
    worst = max(mib for mib, _ in grown.values())
    codes = {code for name, (_, code) in grown.items() if name != DEFUSED}
    told(
        7,
        f"{len(grown)} image bombs, the most memory while one is looked at",
        f"+{worst:.0f} MiB; {sorted(codes)}",
        "+ < 64 MiB, each refused",
        held=worst < 64 and codes <= {"image-too-large", "invalid-image"},
    )


def test_bombs_inside_a_dataset_are_refused_with_their_name(
    gateway: Target, sized: Callable[..., int], told: Callable[..., None]
):
    chosen = [one for one in bombs().items() if one[0] != DEFUSED][:: sized(5, 1)]
    statuses = {}
    with httpx.Client(base_url=gateway.url, timeout=120) as client:
        for name, data in chosen:
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as archive:
                for label in "ab":
                    archive.writestr(f"{label}/1.png", image_file())
                archive.writestr("b/bomb.png", data)
            answer = client.post("/v1/datasets", data={"name": "bombs"}, files={"files": out.getvalue()})
            statuses[name] = answer.status_code, answer.json()["detail"]
    wrong = {
        name: one for name, one in statuses.items() if one[0] not in (413, 422) or "bomb.png" not in one[1]
    }
    told(
        7,
        f"{len(chosen)} image bombs inside a dataset",
        f"refused {len(chosen) - len(wrong)}; otherwise {wrong or 'none'}",
        "each 413 or 422 with the name of the file, nothing stored",
        held=not wrong and not any((gateway.store / "datasets").glob("bombs*")) and gateway.is_same(),
    )
