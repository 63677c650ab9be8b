"""Inference requests of the Open Inference Protocol v2, made by hand."""

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/digits/infer"


def parts_of(app: Any) -> Any:
    """Return the parts that the app under its wrappers holds."""
    while not hasattr(getattr(app, "state", None), "gateway"):
        app = app.app
    return app.state.gateway


def digits(rows: int = 1, *, seed: int = 0) -> NDArray[np.uint8]:
    """Return grey images of noise."""
    return np.random.default_rng(seed).integers(0, 256, (rows, 28, 28, 1), dtype=np.uint8)


def pixel_tensor(images: NDArray[np.uint8], **more: Any) -> dict[str, Any]:
    """Return raw pixels as an input in JSON."""
    return {
        "name": "images",
        "datatype": "UINT8",
        "shape": list(images.shape),
        "data": images.ravel().tolist(),
    } | more


def ask(images: NDArray[np.uint8], **more: Any) -> dict[str, Any]:
    """Return a request in JSON."""
    return {"inputs": [pixel_tensor(images)]} | more


def binary(tensor: dict[str, Any], data: bytes, **more: Any) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request whose tensor follows the JSON."""
    described = {key: value for key, value in tensor.items() if key != "data"}
    described["parameters"] = {"binary_data_size": len(data)}
    header = json.dumps({"inputs": [described]} | more).encode()
    return header + data, {LENGTH: str(len(header))}


def strings(elements: list[bytes]) -> bytes:
    """Return a BYTES tensor in binary."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def refused(answer: Any, status: int, code: str) -> str:
    """Check that the answer is an error of the protocol; return its words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert set(found) == {"error", "code", "request_id"}
    assert (found["code"], found["request_id"]) == (code, answer.headers["x-request-id"])
    words: str = found["error"]
    assert words
    return words
