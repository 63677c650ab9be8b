"""TorchServe with a handler of our own. The setting is workers, largest batch and wait in ms: `2x32@2`.

It needs a Java runtime.

python torchserve_server.py PORT MODEL HEIGHT WIDTH CHANNELS SETTING
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from model import Model, words

if __name__ == "__main__":
    port, *_, setting = sys.argv[1:7]
    workers, batch, wait_ms = words(setting)
    here = Path(__file__).resolve()
    at = Path(tempfile.mkdtemp(prefix="bench-torchserve-"))
    # A model archive may be a folder: what `torch-model-archiver --archive-format no-archive` makes.
    manifest = at / "store" / "student" / "MAR-INF" / "MANIFEST.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(
        json.dumps(
            {
                "createdOn": "21/11/2026 00:00:00",
                "runtime": "python",
                "model": {"modelName": "student", "handler": here.name, "modelVersion": "1.0"},
                "archiverVersion": "0.12.0",
            }
        )
    )
    for name in (here.name, "model.py"):
        (manifest.parents[1] / name).write_bytes(here.with_name(name).read_bytes())
    model = {
        "student": {
            "1.0": {
                "marName": "student",
                "minWorkers": workers,
                "maxWorkers": workers,
                "batchSize": batch,
                "maxBatchDelay": max(1, int(wait_ms)),
                "responseTimeout": 60,
            }
        }
    }
    (at / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\n"
        f"management_address=http://127.0.0.1:{os.environ['BENCH_PORT_2']}\n"
        f"metrics_address=http://127.0.0.1:{os.environ['BENCH_PORT_3']}\n"
        f"grpc_inference_port={os.environ['BENCH_PORT_4']}\n"
        f"grpc_management_port={os.environ['BENCH_PORT_5']}\n"
        "disable_token_authorization=true\n"
        "disable_system_metrics=true\n"
        "enable_envvars_config=false\n"
        "job_queue_size=1000\n"
        "load_models=student\n"
        f"model_store={at / 'store'}\n"
        f"models={json.dumps(model)}\n"
    )
    (at / "log4j2.xml").write_text(
        '<Configuration><Loggers><Root level="error"/></Loggers></Configuration>\n'
    )
    os.environ |= {
        "BENCH_ARGUMENTS": " ".join(sys.argv[1:]),
        "LOG_LOCATION": str(at),
        "METRICS_LOCATION": str(at),
        "TEMP": str(at),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    os.chdir(at)
    binary = Path(sys.executable).with_name("torchserve")
    os.execv(
        binary,
        [
            *(str(binary), "--start", "--foreground", "--disable-token-auth"),
            *("--ts-config", str(at / "config.properties"), "--log-config", str(at / "log4j2.xml")),
            *("--model-store", str(at / "store")),
        ],
    )


class Student:
    """Decodes and runs what several requests carry."""

    def initialize(self, context: Any) -> None:
        """Load the model."""
        _, path, *size, _ = os.environ["BENCH_ARGUMENTS"].split(" ")
        self.model = Model(path, *map(int, size))

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, list[float]]]:
        """Return the answer to each request."""
        found = self.model.of_encoded([one.get("body") or one.get("data") for one in data])
        return [{"probabilities": row} for row in found.tolist()]
