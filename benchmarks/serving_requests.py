"""How each server takes an image, and what it says of it."""

import base64
import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

Form = Literal["raw", "file", "base64", "binary", "pixels"]
"""Raw body; a file in a form; a tensor of the Open Inference Protocol that holds the encoded image in base64
or as binary data; the same with the decoded pixels."""

_BOUNDARY = "benchmark"
_LENGTH_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Request:
    """One POST."""

    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_headers(self) -> dict[str, str]:
        """Return the headers that a client has to send."""
        return {"Content-Type": self.content_type, **self.headers}


def request(png: bytes, form: Form, *, name: str = "images") -> Request:
    """Return a request for one image.

    Args:
        png: the image as PNG, grey or in colour.
        form: how it is put.
        name: of the form's field, or of the tensor.
    """
    if form == "raw":
        return Request(png, "image/png")
    if form == "file":
        head = (
            f"--{_BOUNDARY}\r\n"
            f'Content-Disposition: form-data; name="{name}"; filename="image.png"\r\n'
            "Content-Type: image/png\r\n\r\n"
        )
        body = head.encode() + png + f"\r\n--{_BOUNDARY}--\r\n".encode()
        return Request(body, f"multipart/form-data; boundary={_BOUNDARY}")
    if form == "base64":
        tensor = {"name": name, "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(png).decode()]}
        return Request(json.dumps({"inputs": [tensor]}).encode(), "application/json")
    if form == "binary":
        data = struct.pack("<I", len(png)) + png
        return _binary(name, [1, 1], "BYTES", data)
    pixels = np.asarray(Image.open(io.BytesIO(png)), dtype=np.uint8)
    shape = [1, *pixels.shape] if pixels.ndim == 3 else [1, *pixels.shape, 1]
    return _binary(name, shape, "UINT8", pixels.tobytes())


def answered(body: bytes) -> tuple[int, float]:
    """Return the class that an answer names and its probability, whichever server wrote it.

    Raises:
        ValueError: it is none of the answers that are known here.
    """
    found = json.loads(body)
    try:
        if isinstance(found, dict) and "predictions" in found:
            best = found["predictions"][0]["classes"][0]
            return int(best["name"]), float(best["probability"])
        if isinstance(found, dict):
            found = found["outputs"][0]["data"] if "outputs" in found else found["probabilities"]
        probabilities = np.asarray(found, dtype=np.float64).ravel()
        if not np.isfinite(probabilities).all():
            raise ValueError(f"an answer that is no number: {body[:200]!r}")
        return int(probabilities.argmax()), float(probabilities.max())
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"an answer of another kind: {body[:200]!r}") from error


def _binary(name: str, shape: list[int], datatype: str, data: bytes) -> Request:
    tensor = {
        "name": name,
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    return Request(head + data, "application/octet-stream", {_LENGTH_HEADER: str(len(head))})
