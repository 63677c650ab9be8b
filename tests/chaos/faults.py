"""A proxy in front of an HTTP service that does to its traffic what networks and middle boxes do.

Which fault strikes is switched while it runs, and how often: each n-th question, or every one. It speaks just
enough HTTP/1.1 (lengths are declared) to know where a message ends.
"""

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from safetensors.numpy import load, save

from shared.adapters.content_digest import content_digest

Bytes = bytes | bytearray

LATENCY_S: Final = 0.2
_SLICE_BYTES: Final = 61
_DROP_S: Final = 0.1
_HEALTH: Final = b"/health/"


@dataclass
class Exchange:
    """One request that came, and the ways to its answer and back."""

    head: bytes
    body: bytes
    client: asyncio.StreamReader
    back: asyncio.StreamWriter
    forward: Callable[[bytes, bytes], Awaitable[tuple[bytes, bytes]]]

    async def answer(self) -> tuple[bytes, bytes]:
        """Return head and body of what the service answers."""
        return await self.forward(self.head, self.body)

    async def send(self, *parts: Bytes) -> None:
        self.back.write(b"".join(parts))
        await self.back.drain()

    async def until_given_up(self) -> None:
        """Wait until the client closes its connection."""
        await self.client.read()

    def reset(self) -> None:
        """Close the connection as a crash does: RST, and what was not read is lost."""
        found: socket.socket = self.back.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.back.transport.abort()


Fault = Callable[[Exchange], Awaitable[None]]


# --- the way there and back --------------------------------------------------------------------------------


async def latency(exchange: Exchange) -> None:
    """The answer comes late."""
    head, body = await exchange.answer()
    await asyncio.sleep(LATENCY_S)
    await exchange.send(head, body)


async def reset(exchange: Exchange) -> None:
    """The connection is reset instead of an answer."""
    exchange.reset()


async def black_hole(exchange: Exchange) -> None:
    """The request reaches nobody, and nobody says so."""
    await exchange.until_given_up()


async def half_open(exchange: Exchange) -> None:
    """The service answers, and the answer reaches nobody: the connection stays open."""
    await exchange.answer()
    await exchange.until_given_up()


async def cut(exchange: Exchange) -> None:
    """The connection ends in the middle of an answer."""
    head, body = await exchange.answer()
    await exchange.send(head, body[: len(body) // 2])


async def sliced(exchange: Exchange) -> None:
    """The answer comes in many small pieces."""
    whole = b"".join(await exchange.answer())
    for start in range(0, len(whole), _SLICE_BYTES):
        await exchange.send(whole[start : start + _SLICE_BYTES])
        await asyncio.sleep(0)


async def drops(exchange: Exchange) -> None:
    """The answer comes byte by byte, each in time, so that the whole never does."""
    whole = b"".join(await exchange.answer())
    for byte in whole:
        await exchange.send(bytes([byte]))
        await asyncio.sleep(_DROP_S)


async def endless(exchange: Exchange) -> None:
    """The answer never ends."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        await exchange.send(bytes(1 << 16))


async def storm(exchange: Exchange) -> None:
    """Too many ask: 503, as the service says it."""
    problem = (
        b'{"title":"Service Unavailable","status":503,"code":"queue-full","detail":"the queue is full",'
        b'"remedy":"later","request_id":"x"}'
    )
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
        b"Retry-After: 0\r\nContent-Length: %d\r\n\r\n" % len(problem)
    )
    await exchange.send(head, problem)


async def hiccup(exchange: Exchange) -> None:
    """The service fails in a way that nobody foresaw, as it does where a GPU's memory is full: 500."""
    problem = (
        b'{"title":"Internal Server Error","status":500,"code":"internal-error",'
        b'"detail":"an unexpected error","remedy":"report it","request_id":"x"}'
    )
    head = (
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/problem+json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(problem)
    )
    await exchange.send(head, problem)


# --- wrong messages ----------------------------------------------------------------------------------------


async def changed_request(exchange: Exchange) -> None:
    """A bit of the pixels is another when they arrive."""
    await exchange.send(*await exchange.forward(exchange.head, _flipped(exchange.body)))


async def changed(exchange: Exchange) -> None:
    """A bit of the logits is another when they arrive."""
    head, body = await exchange.answer()
    await exchange.send(head, _flipped(body))


async def other_temperature(exchange: Exchange) -> None:
    """The answer is of another temperature."""
    head, body = await exchange.answer()
    await exchange.send(_with(head, b"X-Temperature", b"2.0"), body)


async def other_teacher(exchange: Exchange) -> None:
    """The answer is of another teacher."""
    head, body = await exchange.answer()
    await exchange.send(_with(head, b"X-Teacher-Digest", b"0" * 64), body)


async def other_shape(exchange: Exchange) -> None:
    """The answer has a row too few, and is whole as far as its digest tells."""
    await _rewritten(exchange, lambda logits: logits[:-1])


async def not_finite(exchange: Exchange) -> None:
    """The answer has a NaN, and is whole as far as its digest tells."""

    def spoilt(logits: np.ndarray) -> np.ndarray:
        logits = logits.copy()
        logits[len(logits) // 2, 0] = np.nan
        return logits

    await _rewritten(exchange, spoilt)


async def other_words(exchange: Exchange) -> None:
    """Something on the way answers with a page of its own."""
    page = b"<html><h1>It works!</h1></html>"
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page), page)


NETWORK: Final[tuple[Fault, ...]] = (
    latency, reset, black_hole, half_open, cut, sliced, drops, endless, storm, hiccup,
)  # fmt: skip
WRONG: Final[tuple[Fault, ...]] = (
    changed_request, changed, other_temperature, other_teacher, other_shape, not_finite, other_words,
)  # fmt: skip


# --- the proxy ---------------------------------------------------------------------------------------------


class FaultProxy:
    """A port of this machine before another one. Use it as a context manager.

    Args:
        target: port of the service, on the same machine; may be changed when the service moves.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.questions = 0
        """Requests that came, those about health aside."""
        self.probes = 0
        """Requests about health."""
        self.struck = 0
        """Requests that met a fault."""
        self._faults: tuple[Fault, ...] = ()
        self._every = 1
        self._health_too = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        serving = asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 20)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    @contextmanager
    def during(self, *faults: Fault, every: int = 1, health_too: bool = False) -> Iterator[None]:
        """Let each `every`-th question meet a fault, the next one of them each time.

        Args:
            faults: that strike in turn.
            every: 1 for all questions.
            health_too: whether those about health meet it as well.
        """
        self.begin(*faults, every=every, health_too=health_too)
        try:
            yield
        finally:
            self.end()

    def begin(self, *faults: Fault, every: int = 1, health_too: bool = False) -> None:
        self._every, self._health_too, self._faults = every, health_too, faults

    def end(self) -> None:
        self._faults = ()

    def _strikes(self, head: bytes) -> Fault | None:
        """Count a request; return the fault that it meets."""
        about_health = head.split(b" ", 2)[1].startswith(_HEALTH)
        if about_health:
            self.probes += 1
        else:
            self.questions += 1
        if not self._faults or (about_health and not self._health_too):
            return None
        if not about_health and self.questions % self._every:
            return None
        self.struck += 1
        return self._faults[self.struck % len(self._faults)]

    async def _connected(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

        async def forward(head: bytes, body: bytes) -> tuple[bytes, bytes]:
            nonlocal upstream
            if upstream is None:
                upstream = await asyncio.open_connection("127.0.0.1", self.target, limit=1 << 20)
            reader, writer = upstream
            writer.write(head + body)
            await writer.drain()
            return await _message(reader)

        try:
            while True:
                exchange = Exchange(*await _message(client), client, back, forward)
                fault = self._strikes(exchange.head)
                if fault is None:
                    await exchange.send(*await exchange.answer())
                    continue
                await fault(exchange)
                if fault in (cut, endless, drops):
                    return
        except (asyncio.IncompleteReadError, OSError):
            pass  # either side has closed its connection: so do we
        finally:
            self._connections.discard(task)
            back.close()
            if upstream is not None:
                upstream[1].close()

    async def _end(self) -> None:
        self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        with contextlib.suppress(OSError):
            await self._server.wait_closed()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return head and body of the next request or answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return head, await reader.readexactly(int(length[1])) if length else b""


async def _rewritten(exchange: Exchange, change: Callable[[np.ndarray], np.ndarray]) -> None:
    head, body = await exchange.answer()
    if b"\r\n\r\n" in body or not body or exchange.head.startswith(b"GET"):
        await exchange.send(head, body)
        return
    body = save({"logits": np.ascontiguousarray(change(load(body)["logits"]))})
    head = _with(head, b"Content-Digest", content_digest(body).encode())
    await exchange.send(_with(head, b"Content-Length", b"%d" % len(body)), body)


def _with(head: bytes, name: bytes, value: bytes) -> bytes:
    return re.sub(rb"(\r\n" + name + rb": *)[^\r]*", rb"\g<1>" + value, head, flags=re.IGNORECASE)


def _flipped(body: bytes) -> bytes:
    """Return a body with one bit changed, three quarters in: where numbers are."""
    if not body:
        return body
    place = 3 * len(body) // 4
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
