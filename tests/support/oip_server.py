"""Servers of the Open Inference Protocol v2: a faithful stub that can be at fault, real MLServer and Triton.

All hold the same model, `shapes`: the linear classifier of `tests.support.onnx_graphs`.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.asgi_server import served
from tests.support.onnx_graphs import linear_weights
from tests.support.teachers import stop

MLSERVER_PYTHON = "IMAGO_TEST_MLSERVER_PYTHON"
"""Names a Python with `mlserver` installed, for the tests that run a real one."""
TRITON_PYTHON = "IMAGO_TEST_TRITON_PYTHON"
"""The same with `nvidia-pytriton`, which brings a Triton server for the CPU along."""

MODEL = "shapes"
INPUTS = [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 6, 5]}]
OUTPUTS = [{"name": "scores", "datatype": "FP32", "shape": [-1, 4]}]

_NUMPY = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "UINT8": "u1", "BF16": "<u2"}
_LENGTH = "Inference-Header-Content-Length"


@dataclass
class Stub:
    """What the stub says and does; a test changes it while it runs."""

    binary: bool = False
    says_so: bool = True
    """Whether its description lists the binary extension, where it has it."""
    inputs: list[dict[str, Any]] | None = field(default_factory=lambda: list(INPUTS))
    outputs: list[dict[str, Any]] | None = field(default_factory=lambda: list(OUTPUTS))
    max_batch: int | None = None
    """What the configuration of the model says; None: the server has no such page."""
    ready: bool = True
    datatype: str = "FP32"
    """Of the answer."""
    fault: str | None = None
    """`down`, `flaky` (every second request is answered with 503), `slow`, `trickle`, `shape`, `datatype`,
    `name`, `count`, `nan`, `garbage`, `refused`, `redirect`, `huge` or `changed`."""
    requests: list[tuple[str, int]] = field(default_factory=list)
    """Path and rows of each that was received."""

    def infer(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return what the model says."""
        weight, bias = linear_weights()
        with np.errstate(all="ignore"):
            scores = pixels.reshape(len(pixels), -1).astype(np.float32) @ weight + bias
        if self.fault == "changed":
            scores = scores + np.arange(4, dtype=np.float32)
        if self.fault == "nan":
            scores[len(scores) // 2, 1] = np.nan
        if self.fault == "shape":
            scores = np.repeat(scores[:, :3], 2, axis=0)
        return scores


def stub_app(stub: Stub) -> Starlette:
    """Return the stub as an ASGI app."""

    def server(_request: Request) -> Response:
        extensions = ["classification", "binary_tensor_data"] if stub.binary and stub.says_so else []
        extensions += ["model_configuration"] if stub.max_batch is not None else []
        return JSONResponse({"name": "stub", "version": "1", "extensions": extensions})

    def described(request: Request) -> Response:
        return _known(request) or JSONResponse(
            {
                "name": MODEL,
                "versions": ["1"],
                "platform": "numpy",
                "inputs": stub.inputs,
                "outputs": stub.outputs,
            }
        )

    def configuration(request: Request) -> Response:
        return _known(request) or JSONResponse({"name": MODEL, "max_batch_size": stub.max_batch})

    def ready(request: Request) -> Response:
        return _known(request) or Response(status_code=200 if stub.ready else 400)

    async def infer(request: Request) -> Response:
        unknown = _known(request)
        if unknown is not None:
            return unknown
        body = await request.body()
        if _LENGTH in request.headers and not stub.binary:
            return JSONResponse({"error": "Internal Server Error"}, 500)  # as MLServer does
        length = int(request.headers.get(_LENGTH, len(body)))
        order = json.loads(body[:length])
        pixels = _tensor(order["inputs"][0], body[length:])
        if order["outputs"][0]["name"] != "scores":
            return JSONResponse({"error": "unexpected output"}, 400)
        stub.requests.append((request.url.path, len(pixels)))
        if (failing := await _fault(stub, len(stub.requests))) is not None:
            return failing
        return _answer(stub, order["outputs"][0], stub.infer(pixels))

    routes = [Route("/v2", server)]
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            Route(path, described),
            Route(f"{path}/ready", ready),
            Route(f"{path}/config", configuration),
            Route(f"{path}/infer", infer, methods=["POST"]),
        ]
    return Starlette(routes=routes)


@contextmanager
def stub_server(**options: Any) -> Iterator[tuple[str, Stub]]:
    """Serve a stub; yield its address and what it does."""
    stub = Stub(**options)
    with served(stub_app(stub)) as url:
        yield url, stub


def _known(request: Request) -> Response | None:
    if request.path_params["model"] == MODEL and request.path_params.get("version", "1") == "1":
        return None
    return JSONResponse({"error": f"Model {request.path_params['model']} not found"}, 404)


async def _fault(stub: Stub, number: int) -> Response | None:
    if stub.fault == "down" or (stub.fault == "flaky" and number % 2):
        return JSONResponse({"error": "no worker is free"}, 503, headers={"Retry-After": "7"})
    if stub.fault == "slow":
        await asyncio.sleep(1.0)
    if stub.fault == "refused":
        return JSONResponse({"error": "unexpected shape for input 'pixels'"}, 400)
    if stub.fault == "garbage":
        return Response(b"<html>a proxy</html>", media_type="text/html")
    if stub.fault == "redirect":
        return RedirectResponse("http://127.0.0.1:1/elsewhere", 307)
    if stub.fault == "trickle":
        return StreamingResponse(_trickle(), media_type="application/json")
    if stub.fault == "huge":
        return Response(bytes(2 * 2**20), media_type="application/json")
    return None


async def _trickle() -> AsyncIterator[bytes]:
    for _ in range(100):
        yield b" "
        await asyncio.sleep(0.05)


def _tensor(described: dict[str, Any], rest: bytes) -> NDArray[Any]:
    dtype = np.dtype(_NUMPY[described["datatype"]])
    size = described.get("parameters", {}).get("binary_data_size")
    if size is not None:
        return np.frombuffer(rest[:size], dtype).reshape(described["shape"])
    return np.array(described["data"], dtype).reshape(described["shape"])


def _answer(stub: Stub, wanted: dict[str, Any], scores: NDArray[Any]) -> Response:
    datatype = "INT64" if stub.fault == "datatype" else stub.datatype
    if datatype == "BF16":
        values: NDArray[Any] = (scores.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
    else:
        values = scores.astype(_NUMPY.get(datatype, "<i8"))
    name = "logits" if stub.fault == "name" else wanted["name"]
    shape = [2 * len(scores), *scores.shape[1:]] if stub.fault == "count" else list(scores.shape)
    output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if not wanted.get("parameters", {}).get("binary_data"):
        # As Triton writes it: NaN as a word that JSON does not have.
        output["data"] = (scores if datatype == "BF16" else values).reshape(-1).tolist()
        return Response(
            json.dumps({"model_name": MODEL, "outputs": [output]}).encode(), media_type="application/json"
        )
    data = values.tobytes()
    # Another output before the one that is wanted, as a server may send more than it was asked for.
    extra = {
        "name": "embedding", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}
    }  # fmt: skip
    output["parameters"] = {"binary_data_size": len(data)}
    header = json.dumps({"model_name": MODEL, "outputs": [extra, output]}).encode()
    return Response(
        header + bytes(12) + data,
        media_type="application/octet-stream",
        headers={_LENGTH: str(len(header))},
    )


# --- real ones ---------------------------------------------------------------------------------------------

_RUNTIME = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Linear(MLModel):
    async def load(self):
        values = np.fromfile("weights.f32", np.float32)
        self.weight, self.bias = values[:-4].reshape(-1, 4), values[-4:]
        return True

    async def predict(self, payload):
        pixels = NumpyCodec.decode_input(payload.inputs[0])
        scores = pixels.reshape(len(pixels), -1).astype(np.float32) @ self.weight + self.bias
        output = NumpyCodec.encode_output("scores", scores)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
"""


_TRITON_MODEL = """
import sys
sys.path.insert(0, {packages!r})
import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        values = np.fromfile({weights!r}, np.float32)
        self.weight, self.bias = values[:-4].reshape(-1, 4), values[-4:]

    def execute(self, requests):
        return [self.answer(triton.get_input_tensor_by_name(one, "pixels").as_numpy()) for one in requests]

    def answer(self, pixels):
        scores = pixels.reshape(len(pixels), -1).astype(np.float32) @ self.weight + self.bias
        return triton.InferenceResponse([triton.Tensor("scores", scores.astype(np.float32))])
"""
_TRITON_CONFIG = """
name: "shapes"
backend: "python"
max_batch_size: 16
input [{ name: "pixels" data_type: TYPE_FP32 dims: [1, 6, 5] }]
output [{ name: "scores" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""


@contextmanager
def triton(directory: Path) -> Iterator[str]:
    """Run the model on a real Triton, with the Python that the environment names; yield its address."""
    packages = Path(_said_by(os.environ[TRITON_PYTHON], "import numpy; print(numpy.__path__[0])")).parent
    version = _said_by(os.environ[TRITON_PYTHON], "import sys; print('%d.%d' % sys.version_info[:2])")
    home = packages / "pytriton" / "tritonserver"
    shutil.copytree(home / "backends", directory / "backends")
    shutil.copy(
        home / "python_backend_stubs" / version / "triton_python_backend_stub",
        directory / "backends" / "python",
    )
    model = directory / "models" / MODEL
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(_TRITON_CONFIG)
    weights = _write_weights(directory)
    (model / "1" / "model.py").write_text(_TRITON_MODEL.format(packages=str(packages), weights=str(weights)))
    (port,) = _free_ports(1)
    command = [
        str(home / "bin" / "tritonserver"),
        f"--model-repository={directory / 'models'}",
        f"--backend-directory={directory / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    libraries = {"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs")}
    with _running(command, directory, libraries, f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def mlserver(directory: Path) -> Iterator[str]:
    """Run the model on a real MLServer, with the Python that the environment names; yield its address."""
    _write_weights(directory)
    (directory / "runtime.py").write_text(_RUNTIME)
    model = {"name": MODEL, "implementation": "runtime.Linear", "inputs": INPUTS, "outputs": OUTPUTS}
    (directory / "model-settings.json").write_text(json.dumps(model))
    ports = dict(zip(("http_port", "grpc_port"), _free_ports(2), strict=True))
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "metrics_endpoint": None, **ports}
    (directory / "settings.json").write_text(json.dumps(settings))
    command = [os.environ[MLSERVER_PYTHON], "-m", "mlserver.cli.main", "start", "."]
    url = f"http://127.0.0.1:{ports['http_port']}"
    with _running(command, directory, {"PYTHONPATH": str(directory)}, url):
        yield url


@contextmanager
def _running(command: list[str], directory: Path, variables: dict[str, str], url: str) -> Iterator[str]:
    """Run a server until the block ends; enter it once the model is ready."""
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, **variables}, stdout=output, stderr=output
        )
    try:
        _wait_until_ready(process, f"{url}/v2/models/{MODEL}/ready", log)
        yield url
    finally:
        stop(process)


def _write_weights(directory: Path) -> Path:
    weight, bias = linear_weights()
    path = directory / "weights.f32"
    np.concatenate([weight.reshape(-1), bias]).astype(np.float32).tofile(path)
    return path


def _said_by(python: str, code: str) -> str:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]
    finally:
        for found in sockets:
            found.close()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(log.read_text())
