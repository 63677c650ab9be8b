"""Clients that send or read slowly, or nothing, or send too much ahead: the others never notice."""

import asyncio
import select
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager

import pytest

from shared.adapters.web.bounded import ANSWER_S, BODY_S, HEAD_S, MOST_HELD_BYTES
from tests.chaos.hostile_targets import Liveness, Target, hostile_gateway
from tests.support.gateway_in_process import image_file

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DESCRIPTORS = 600
HEAD = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with hostile_gateway(tmp_path_factory.mktemp("slow")) as target:
        target.limit_descriptors(DESCRIPTORS)
        yield target


async def connect(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.wait_for(asyncio.open_connection(target.host, target.port), 20)


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await connect(target)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def silent(target: Target, count: int) -> int:
    """Make so many connections that say nothing; return the most descriptors that the gateway had."""
    most = 0
    with ExitStack() as stack:
        for number in range(count):
            stack.enter_context(socket.create_connection((target.host, target.port), timeout=20))
            if number % 50 == 0:
                most = max(most, target.descriptors())
        return max(most, target.descriptors())


async def said(reader: asyncio.StreamReader, within_s: float = 30) -> bytes:
    """Return all that comes until the other side closes the connection."""
    try:
        return await asyncio.wait_for(reader.read(-1), within_s)
    except ConnectionError:
        return b""


async def dribbled(target: Target, beginning: bytes, within_s: float) -> bytes:
    """Send a beginning, then a byte each half second; return what the gateway says when it has had enough."""
    async with connected(target) as (reader, writer):
        answer = asyncio.ensure_future(said(reader, within_s))
        writer.write(beginning)
        while not answer.done() and not writer.is_closing():
            writer.write(b"a")
            await asyncio.wait({answer}, timeout=0.5)
        return await answer


def test_liveness_goes_on_beside_connections_that_say_nothing(
    gateway: Target, sized: Callable[..., int], told: Callable[..., None]
):
    count, rounds = sized(1_500, 4_000), sized(6, 30)
    most = 0
    with Liveness(gateway) as live:
        for _ in range(rounds):
            most = max(most, silent(gateway, count))
    told(
        6,
        f"{count:,} connections at once that say nothing, {rounds} times, {DESCRIPTORS} descriptors",
        f"liveness p99 {1000 * live.p99_s:.0f} ms over {len(live.seconds)}, failed {len(live.failed)}; "
        f"{most} descriptors",
        f"liveness p99 < {sized(2_000, 100)} ms, 0 failed, descriptors within the limit",
        held=live.p99_s < sized(2, 0.1) and not live.failed and most < DESCRIPTORS,
    )


def test_a_head_that_dribbles_in_is_given_up(
    gateway: Target, sized: Callable[..., int], told: Callable[..., None]
):
    slow = sized(20, 200)

    async def dribble() -> Counter[bytes]:
        heads = [dribbled(gateway, b"GET /v1/students HTTP/1.1\r\nX-", 4 * HEAD_S) for _ in range(slow)]
        return Counter([answer[:12] for answer in await asyncio.gather(*heads)])

    began = time.monotonic()
    with Liveness(gateway) as live:
        endings = asyncio.run(dribble())
    took_s = time.monotonic() - began
    told(
        6,
        f"{slow} heads of two bytes a second",
        f"ended {dict(endings)} after {took_s:.1f} s; liveness failed {len(live.failed)}",
        f"each 408 within {3 * HEAD_S:.0f} s, liveness never fails",
        held=endings == {b"HTTP/1.1 408": slow} and took_s < 3 * HEAD_S and not live.failed,
    )


def test_a_body_that_dribbles_in_is_given_up(gateway: Target, sized: Callable[..., int]):
    """Half a minute long, so the small form looks at heads alone; unit tests look at both."""
    if sized(0, 1):
        began = time.monotonic()
        answers = asyncio.run(_dribbled_bodies(gateway))
        # Their requests are under way: an answer of ours could be read as a part of another.
        assert answers == [b""] * 3
        assert time.monotonic() - began < 2 * BODY_S
    assert gateway.is_same()


async def _dribbled_bodies(target: Target) -> list[bytes]:
    length = b"Content-Length: 5000\r\n\r\n"
    form = b"POST /v1/predictions HTTP/1.1\r\nHost: y\r\nX-Request-ID: 1\r\nContent-Type: image/png\r\n"
    app = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
    )
    return await asyncio.gather(
        dribbled(target, HEAD + length, 2 * BODY_S),
        dribbled(target, form + length, 2 * BODY_S),
        dribbled(target, app, 2 * BODY_S),
    )


def test_connections_that_read_nothing_are_ended(
    gateway: Target, sized: Callable[..., int], told: Callable[..., None]
):
    """They last half a minute, so the small form looks at what they cost; unit tests look at their end."""
    count, full = sized(50, 400), sized(0, 1)
    most = MOST_HELD_BYTES / 2**20
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 40  # 14 MiB, more than the kernel takes
    ended = 0
    took_s = 0.0
    assert b" 200 " in asyncio.run(_first_line(gateway, ask[: len(ask) // 40]))
    gateway.rss_before = gateway.rss()
    with Liveness(gateway) as live, ExitStack() as stack:
        poll = select.poll()
        for _ in range(count):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            connection.connect((gateway.host, gateway.port))
            connection.sendall(ask)
            poll.register(connection, 0)
        began = time.monotonic()
        while full and ended < count and took_s < 2 * ANSWER_S:
            for descriptor, _ in poll.poll(1000):
                poll.unregister(descriptor)
                ended += 1
            took_s = time.monotonic() - began
        grown = gateway.grown()
        while len(live.seconds) < 20:
            time.sleep(0.05)
    told(
        6,
        f"{count} connections that ask for 14 MiB each and read nothing",
        f"memory +{grown:.0f} MiB, {f'{ended} ended after {took_s:.0f} s, ' if full else ''}"
        f"liveness p99 {1000 * live.p99_s:.0f} ms, failed {len(live.failed)}",
        f"{f'all ended within {2 * ANSWER_S:.0f} s, ' if full else ''}memory + < {most:.0f} MiB, 0 failed",
        held=grown < most and not live.failed and gateway.is_same() and ended == full * count,
    )


async def _first_line(target: Target, request: bytes) -> bytes:
    async with connected(target) as (reader, writer):
        writer.write(request)
        return await asyncio.wait_for(reader.readline(), 30)


LARGE = {
    "a header of 1 MiB": b"GET /health/live HTTP/1.1\r\nX-A: " + b"a" * 2**20 + b"\r\n\r\n",
    "10,000 header lines": b"GET /health/live HTTP/1.1\r\n" + b"X-A: a\r\n" * 10_000 + b"\r\n",
    "a request line of 1 MiB": b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\n\r\n",
    "a query of 1 MiB": b"POST /v1/predictions?" + b"a" * 2**20 + b" HTTP/1.1\r\n\r\n",
    "a header name of 1 MiB": b"GET / HTTP/1.1\r\n" + b"a" * 2**20 + b": b\r\n\r\n",
    "no end of a trailer": b"POST /v1/jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
    + b"a" * 2**20,
    "10,000 trailers": b"POST /v1/jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    + b"X: a\r\n" * 10**5,
    "a chunk extension of 1 MiB": b"POST /v1/predictions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;"
    + b"a" * 2**20,
    "no HTTP": b"\x16\x03\x01\x02\x00" * 2**16,
    "another version": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "a length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length that is none": HEAD + b"Content-Length: \xb2\r\n\r\n",
    "a length beyond all": HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "a path that is no text": b"GET /v1/\xff\xfe HTTP/1.1\r\n\r\n",
    "a line in a header": b"GET /health/live HTTP/1.1\r\nX-A: a\nb\r\n\r\n",
    "a tunnel": b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
}


def test_heads_without_measure_are_refused_in_little_memory(
    gateway: Target, sized: Callable[..., int], told: Callable[..., None]
):
    rounds = sized(2, 20)

    async def send(data: bytes) -> bytes:
        async with connected(gateway) as (reader, writer):
            try:
                writer.write(data)
                await asyncio.wait_for(writer.drain(), 20)
            except ConnectionError:
                pass
            return await said(reader)

    async def send_all() -> dict[str, Counter[bytes]]:
        found: dict[str, Counter[bytes]] = {}
        for _ in range(rounds):
            answers = await asyncio.gather(*(send(data) for data in LARGE.values()))
            for name, answer in zip(LARGE, answers, strict=True):
                found.setdefault(name, Counter())[answer[9:12]] += 1
        return found

    gateway.rss_before = gateway.rss()
    with Liveness(gateway) as live:
        found = asyncio.run(send_all())
    statuses = set().union(*found.values())
    # Nothing where the connection was broken off: what came after its end was not read.
    told(
        7,
        f"{len(LARGE)} kinds of heads without measure, {rounds} times each",
        f"answers {sorted(one.decode() or 'none' for one in statuses)}, memory +{gateway.grown():.0f} MiB, "
        f"liveness p99 {1000 * live.p99_s:.0f} ms, failed {len(live.failed)}",
        "4xx or the end of the connection, memory + < 64 MiB, the same process",
        held=all(one == b"" or one.startswith(b"4") for one in statuses)
        and gateway.grown() < 64
        and not live.failed
        and gateway.is_same(),
    )


def test_requests_sent_ahead_without_measure_cost_their_connection_only(
    gateway: Target, sized: Callable[..., int], told: Callable[..., None]
):
    connections = sized(8, 64)
    image = image_file()
    length = b"Content-Length: %d\r\n\r\n"
    floods = {
        "tiny requests": b"GET /health/live HTTP/1.1\r\n\r\n" * 40_000,
        "no images, the short way": (HEAD + length % 1 + b"x") * 10_000,
        "images, the short way": (HEAD + length % len(image) + image) * 1_000,
        "requests for nothing": b"GET /nothing HTTP/1.1\r\n\r\n" * 40_000,
    }

    async def flood(data: bytes) -> int:
        async with connected(gateway) as (reader, writer):
            answer = asyncio.ensure_future(said(reader, 60))
            try:
                # Once beforehand, so that the gateway has seen the head.
                writer.write(data)
                await asyncio.wait_for(writer.drain(), 60)
            except (ConnectionError, TimeoutError):
                pass
            await asyncio.wait({answer}, timeout=10)
            answered = (await answer).count(b"HTTP/1.1 ") if answer.done() else -1
            answer.cancel()
            return answered

    async def flood_all() -> dict[str, int]:
        return {
            name: max(await asyncio.gather(*(flood(data) for _ in range(connections))))
            for name, data in floods.items()
        }

    gateway.rss_before = gateway.rss()
    with Liveness(gateway) as live:
        answered = asyncio.run(flood_all())
    log = gateway.log.read_text()
    told(
        6,
        f"{len(floods)} floods of requests sent ahead on {connections} connections each",
        f"memory +{gateway.grown():.0f} MiB, liveness p99 {1000 * live.p99_s:.0f} ms, failed "
        f"{len(live.failed)}, most answers on one {answered}",
        "memory + < 100 MiB, liveness never fails, no traceback, the same process",
        held=gateway.grown() < 100 and not live.failed and "Traceback" not in log and gateway.is_same(),
    )
