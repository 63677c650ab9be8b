"""Runs an ASGI app factory under uvicorn with the settings that all services share."""

import asyncio
import ctypes
import importlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import uvicorn
from uvicorn.supervisors import Multiprocess

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_SILENCE_S = 60
"""A process that is silent for so long is replaced."""
_ACCEPTED_A_TURN = 16
"""Connections that one turn of the event loop accepts. libuv (1.46 and later) accepts one a turn from each
listening descriptor, so there are several of the one socket: else the last of 64 clients that come at once
waits for 64 turns, each of them with the answers of all who came before it."""


def serve(
    factory: str,
    *,
    host: str,
    port: int,
    processes: int = 1,
    drain_s: int = 30,
    protocol: str = "shared.adapters.web.bounded:BoundedProtocol",
) -> None:
    """Serve `factory` until SIGTERM or SIGINT, then let requests in flight end and exit with 0.

    Args:
        factory: "module:function", which returns the app; it runs in each process.
        host: address to bind.
        port: port to bind.
        processes: how many processes share the port, each by a socket of its own, among which the kernel
            deals out the connections. With one socket for all, whoever wakes first takes most of them.
        drain_s: seconds that requests in flight may take after the signal.
        protocol: "module:class", which speaks HTTP; it is loaded with the app, and so not in the process that
            only watches over several.
    """
    # uvicorn drains on SIGTERM and then raises the signal once more: having drained is a success.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    config = uvicorn.Config(
        factory,
        factory=True,
        host=host,
        port=port,
        http=cast(Any, _Named(protocol)),
        ws="none",
        workers=processes,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=drain_s,
        # uvicorn's five seconds end a process of a busy machine in the middle of its start.
        timeout_worker_healthcheck=_SILENCE_S,
    )
    if processes == 1:
        server = _Server(config)
        listener = _bound(host, port)
        with suppress(KeyboardInterrupt):
            server.run(sockets=listeners(listener))
        if not server.started:
            sys.exit(uvicorn.config.STARTUP_FAILURE)
        return
    metrics_dir = tempfile.mkdtemp(prefix="imago-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir
    try:
        # Kept open and never listened on: it holds the port, also one that the kernel has chosen.
        with _bound(host, port, shared=True) as held:
            own = _OwnSocket(host, held.getsockname()[1])
            sockets = [own, *(_Duplicate(own) for _ in range(_ACCEPTED_A_TURN - 1))]
            Multiprocess(config, sockets=sockets).run()  # type: ignore[arg-type]
    finally:
        shutil.rmtree(metrics_dir, ignore_errors=True)


def listeners(listener: socket.socket) -> list[socket.socket]:
    """Return descriptors of one listening socket, so many that a burst of clients is accepted at once."""
    return [listener, *(listener.dup() for _ in range(_ACCEPTED_A_TURN - 1))]


class _Server(uvicorn.Server):
    """Says where it listens once it does, which uvicorn leaves out where it is given sockets."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            log.info("listening", extra={"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"})


class _Named:
    """Makes protocols of a class that is imported when the first is wanted."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._class: Callable[..., asyncio.Protocol] | None = None

    def __call__(self, **facts: Any) -> asyncio.Protocol:
        if self._class is None:
            module, _, name = self._name.partition(":")
            found = getattr(importlib.import_module(module), name)
            self._class = cast(Callable[..., asyncio.Protocol], found)
        return self._class(**facts)


class _OwnSocket:
    """Becomes a new socket on the port wherever it arrives: uvicorn sends its sockets to each process.

    The one thing of ours that each process does before it serves, so that it is tied to its parent here, too:
    one that outlived it would go on answering on the port, and nobody would replace or stop it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    def __reduce__(self) -> Any:
        return _in_child, self._address


def _in_child(host: str, port: int) -> socket.socket:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return _bound(host, port, shared=True)


class _Duplicate:
    """Becomes another descriptor of what the socket has become, where both arrive together."""

    def __init__(self, own: _OwnSocket) -> None:
        self._own = own

    def __reduce__(self) -> Any:
        return socket.socket.dup, (self._own,)


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        sys.stderr.write(f"cannot bind {host}:{port}: {error.strerror}\n")
        raise SystemExit(1) from error
    return found
