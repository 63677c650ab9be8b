"""Serves an ASGI app on a free local port from a thread of the test's own process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp


@contextmanager
def served(app: ASGIApp, http: Any = "auto") -> Iterator[str]:
    """Serve the app under uvicorn; yield its address once it answers, and stop it in the end.

    `http` is the class that speaks HTTP, uvicorn's own where it is left out.
    """
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http=http, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the app did not start"
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
