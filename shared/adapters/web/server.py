"""Runs an ASGI app factory under uvicorn with the settings that all services share."""

import os
import shutil
import signal
import sys
import tempfile

import uvicorn


def serve(factory: str, *, host: str, port: int, processes: int = 1, drain_s: int = 30) -> None:
    """Serve `factory` until SIGTERM or SIGINT, then let requests in flight end and exit with 0.

    Args:
        factory: "module:function", which returns the app; it runs in each process.
        host: address to bind.
        port: port to bind.
        processes: how many processes share the port.
        drain_s: seconds that requests in flight may take after the signal.
    """
    # uvicorn drains on SIGTERM and then raises the signal once more: having drained is a success.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    metrics_dir = None
    if processes > 1:
        metrics_dir = tempfile.mkdtemp(prefix="imago-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir
    try:
        uvicorn.run(
            factory,
            factory=True,
            host=host,
            port=port,
            workers=processes,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=drain_s,
        )
    finally:
        if metrics_dir is not None:
            shutil.rmtree(metrics_dir, ignore_errors=True)
