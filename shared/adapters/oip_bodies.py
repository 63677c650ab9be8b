"""Bodies of the Open Inference Protocol v2 over REST: tensors as JSON, or behind the JSON as plain bytes.

The second form is the binary tensor data extension: the body is a JSON part and then the tensors, and the
header `Inference-Header-Content-Length` says how long the JSON part is.
Source: https://github.com/kserve/open-inference-protocol, inference_rest.md and binary_data_extension.md.
"""

import json
import math
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from shared.errors import TeacherAnswerInvalid

BINARY_EXTENSION: Final = "binary_tensor_data"
HEADER_LENGTH: Final = "Inference-Header-Content-Length"
OCTETS: Final = "application/octet-stream"
JSON: Final = "application/json"

NUMPY_NAMES: Final = {
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "bfloat16",
    "UINT8": "uint8",
    "INT8": "int8",
    "UINT16": "uint16",
    "INT16": "int16",
    "UINT32": "uint32",
    "INT32": "int32",
    "UINT64": "uint64",
    "INT64": "int64",
    "BOOL": "bool",
}
"""The protocol's types in numpy's words; numpy itself has no bfloat16."""
_PROTOCOL_NAMES: Final = {"float16": "FP16", "float32": "FP32", "uint8": "UINT8"}
_ANSWERS: Final = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": "<u2"}
"""The types in which logits may come, as they lie in memory; bfloat16 is the upper half of a float32."""
_SHOWN: Final = 200


def request_body(
    name: str, batch: NDArray[Any], output: str, *, binary: bool
) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request for one output about one tensor.

    Args:
        name: of the input.
        batch: float32, float16 or uint8.
        output: that is wanted.
        binary: whether tensors travel as bytes, there and back.
    """
    tensor: dict[str, object] = {
        "name": name,
        "shape": batch.shape,
        "datatype": _PROTOCOL_NAMES[batch.dtype.name],
    }
    wanted: dict[str, object] = {"name": output}
    if not binary:
        tensor["data"] = np.ascontiguousarray(batch).reshape(-1)
        body = orjson.dumps({"inputs": [tensor], "outputs": [wanted]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return body, {"Content-Type": JSON}
    data = np.ascontiguousarray(batch, dtype=batch.dtype.newbyteorder("<")).tobytes()
    tensor["parameters"] = {"binary_data_size": len(data)}
    wanted["parameters"] = {"binary_data": True}
    header = orjson.dumps({"inputs": [tensor], "outputs": [wanted]})
    return header + data, {"Content-Type": OCTETS, HEADER_LENGTH: str(len(header))}


def answered(body: bytes, header_length: str | None, output: str, whose: str) -> NDArray[Any]:
    """Return the output of an answer: float32, float16 or float64, of the shape that the server states.

    Numbers that JSON has no word for (null, NaN) become NaN; they are for others to judge.

    Args:
        body: of the answer.
        header_length: of the header of this name, where there is one.
        output: that was asked for.
        whose: the server in words.

    Raises:
        TeacherAnswerInvalid: the body is no answer of the protocol, lacks the output, or its numbers are of
            another kind or count than it says.
    """
    header, rest = _parts(body, header_length, whose)
    outputs = header.get("outputs")
    if not isinstance(outputs, list) or not all(isinstance(found, dict) for found in outputs):
        raise TeacherAnswerInvalid(f"{whose} answered no outputs: {_shown(body)}")
    place, chosen, data = 0, None, b""
    for found in outputs:  # the bytes of the outputs follow one another
        size = _binary_size(found, whose)
        if found.get("name") == output:
            chosen, data = found, rest[place : place + size]
        place += size
    if chosen is None:
        names = ", ".join(repr(found.get("name")) for found in outputs) or "none"
        raise TeacherAnswerInvalid(f"{whose} did not answer {output!r}, got {names}")
    if place != len(rest):
        raise TeacherAnswerInvalid(f"{whose} sent {len(rest)} bytes of tensors, where it says {place}")
    kind, shape = _described(chosen, output, whose)
    if _binary_size(chosen, whose) or "data" not in chosen:
        values = _of_bytes(data, kind)
    else:
        values = _of_json(chosen["data"], kind, output, whose)
    if values.size != math.prod(shape):
        raise TeacherAnswerInvalid(
            f"{whose} answered {values.size} numbers in {output!r} for the shape {list(shape)}"
        )
    return values.reshape(shape)


def _parts(body: bytes, header_length: str | None, whose: str) -> tuple[dict[str, Any], bytes]:
    length = len(body)
    if header_length is not None:
        if not (header_length.isdecimal() and int(header_length) <= len(body)):
            raise TeacherAnswerInvalid(f"{whose} answered with {HEADER_LENGTH}: {header_length[:40]!r}")
        length = int(header_length)
    try:
        header = json_of(body[:length])
    except ValueError as error:
        raise TeacherAnswerInvalid(f"{whose} answered no JSON: {_shown(body)}") from error
    if not isinstance(header, dict):
        raise TeacherAnswerInvalid(f"{whose} answered no JSON object: {_shown(body)}")
    return header, body[length:]


def json_of(text: bytes) -> Any:
    """Return what a JSON text says; NaN and Infinity, which servers write though JSON has none, are read too.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def _binary_size(found: dict[str, Any], whose: str) -> int:
    parameters = found.get("parameters") or {}
    size = parameters.get("binary_data_size", 0) if isinstance(parameters, dict) else -1
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise TeacherAnswerInvalid(f"{whose} answered a tensor of {str(size)[:40]!r} bytes")
    return size


def _described(found: dict[str, Any], output: str, whose: str) -> tuple[str, tuple[int, ...]]:
    kind, shape = found.get("datatype"), found.get("shape")
    if kind not in _ANSWERS:
        raise TeacherAnswerInvalid(
            f"{whose} answered {output!r} in {str(kind)[:40]}, not in one of {', '.join(_ANSWERS)}"
        )
    if not isinstance(shape, list) or not all(type(length) is int and length >= 0 for length in shape):
        raise TeacherAnswerInvalid(f"{whose} answered {output!r} in the shape {str(shape)[:_SHOWN]}")
    return kind, tuple(shape)


def _of_bytes(data: bytes, kind: str) -> NDArray[Any]:
    dtype = np.dtype(_ANSWERS[kind])
    if len(data) % dtype.itemsize:
        return np.empty(0)  # of no shape that could be stated
    values = np.frombuffer(data, dtype).copy()  # a view on bytes could not be written
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _of_json(data: Any, kind: str, output: str, whose: str) -> NDArray[Any]:
    dtype = np.float32 if kind == "BF16" else np.dtype(_ANSWERS[kind])
    try:
        with np.errstate(over="ignore"):
            return np.array(data, dtype=np.float64).astype(dtype).reshape(-1)  # null becomes NaN
    except (ValueError, TypeError) as error:
        raise TeacherAnswerInvalid(f"{whose} answered something else than numbers in {output!r}") from error


def _shown(body: bytes) -> str:
    return repr(body[:_SHOWN].decode("utf-8", "replace"))
