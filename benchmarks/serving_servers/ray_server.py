"""Ray Serve in its high-throughput mode behind HAProxy. The setting is replicas and largest batch: `2x1`.

Batches of its own (`serve.batch`) make it slower, so there are none.

python ray_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

_PLACE = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: paths of sockets have 108 bytes at most
# Read when ray is imported, here and in the processes that it starts.
os.environ |= {
    "PYTHONPATH": str(Path(__file__).resolve().parent),
    "RAY_AUTH_MODE": "disabled",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{_PLACE}/haproxy.cfg",
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": _PLACE,
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{_PLACE}/server-state",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{_PLACE}/admin.sock",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

import orjson  # noqa: E402 - see above
import ray  # noqa: E402
from model import Model, words  # noqa: E402
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402

PORT, MODEL, *SIZE = sys.argv[1:6]
REPLICAS, _, _ = words(sys.argv[6])


@serve.deployment(
    num_replicas=REPLICAS,
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 0.1},
    logging_config={"enable_access_log": False, "log_level": "WARNING"},
)
class Student:
    """Decodes and runs."""

    def __init__(self, path: str, size: list[str]) -> None:
        self.model = Model(path, *map(int, size))

    async def __call__(self, request: Request) -> Any:
        """Return the probabilities."""
        found = self.model.of_encoded([await request.body()])[0]
        body = orjson.dumps({"probabilities": found}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    ray.init(
        num_cpus=8,  # of the accounts that it keeps, not of the machine
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=False,
        _temp_dir=_PLACE,
    )
    serve.start(http_options={"host": "0.0.0.0", "port": int(PORT)})
    serve.run(Student.bind(MODEL, SIZE), name="student")
    try:
        signal.pause()
    finally:
        shutil.rmtree(_PLACE, ignore_errors=True)
