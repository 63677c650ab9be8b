"""From the body of an inference request to what is asked: images, and outputs in the form that is wanted.

Everything is checked here, by hand: a model of the body would cost more than the student does. The models in
`shared.contracts.oip` describe the same for readers and clients.
"""

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from services.gateway.oip import tensors
from services.gateway.oip.tensors import ENCODED, INPUTS, LOGITS, OUTPUTS, PIXELS, PREDICTED, PROBABILITIES
from shared.adapters.oip_bodies import HEADER_LENGTH
from shared.contracts.images import ImageInput
from shared.errors import InvalidInference, NoImages, TemperatureNotServed, TooManyImages
from shared.serving.images import EncodedImage

SMALL_JSON: Final = 2**16
"""Bytes of JSON that are read in less than a millisecond."""
_MOST_NUMBERS: Final = 2**20
"""In JSON, which takes ten times the time and the memory of the same numbers in binary."""
_ROOM: Final = 4096
"""Brackets and commas of all that is not data."""
_MOST_ID: Final = 256
_MOST_TIMEOUT_US: Final = 3_600_000_000


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output, and how it is to be sent."""

    name: str
    binary: bool = False
    """Behind the JSON."""
    classes: int | None = None
    """How many of the most probable classes are wanted, as strings; None for all numbers."""


@dataclass(frozen=True, slots=True)
class Inference:
    """What is asked: either `pixels` or `encoded`."""

    rows: int
    pixels: memoryview | None
    """Raw pixels of all rows, row-major."""
    encoded: tuple[EncodedImage, ...]
    outputs: tuple[WantedOutput, ...]
    id: str | None
    timeout_s: float | None

    @property
    def top(self) -> int:
        """How many classes must be ranked."""
        return max((output.classes or 1 for output in self.outputs), default=1)

    def wants(self, name: str) -> bool:
        """Tell whether an output is wanted."""
        return any(output.name == name for output in self.outputs)


def header_size(body: bytes, header_length: str | None) -> int:
    """Return how many bytes of the body are JSON.

    Raises:
        InvalidInference: the header is no length, or one that the body does not have.
    """
    if header_length is None:
        return len(body)
    given = header_length
    if not (given.isascii() and given.isdecimal() and len(given) < 12 and 0 < int(given) <= len(body)):
        raise InvalidInference(
            f"{HEADER_LENGTH} is {given[:32]!r}, where the body has {len(body)} bytes in all"
        )
    return int(given)


def inference(body: bytes, header_length: str | None, size: ImageInput, *, most_rows: int) -> Inference:
    """Return what a request asks.

    Args:
        body: of the request, not compressed.
        header_length: value of the header `Inference-Header-Content-Length`, where there is one.
        size: of the images that the student takes.
        most_rows: images that one request may carry.

    Raises:
        InvalidInference: it cannot be read, or does not fit the model.
        TemperatureNotServed: another temperature than 1 is asked for.
        NoImages: the tensor has no rows.
        TooManyImages: it has more than allowed.
    """
    length = header_size(body, header_length)
    content = memoryview(body)
    request = _json(body[:length], most_rows * size.values)
    parameters = _parameters(request, "the request")
    outputs = _outputs(request.get("outputs"), _flag(parameters, "binary_data_output", "the request"))
    tensor = _input(request.get("inputs"))
    shape, datatype, name = _shape(tensor), tensor.get("datatype"), tensor["name"]
    expected = tensors.shape_of(size) if name == PIXELS else ()
    if datatype != tensors.DATATYPES[name]:
        raise InvalidInference(f"{name} is {tensors.DATATYPES[name]}, got {_shown(datatype)}")
    if len(shape) != 1 + len(expected) or shape[1:] != expected:
        raise InvalidInference(f"{name} has the shape {_shown([-1, *expected])}, got {_shown(list(shape))}")
    if not shape[0]:
        raise NoImages(f"{name} has no rows")
    if shape[0] > most_rows:
        raise TooManyImages(most_rows)
    sent = _sent(tensor, content[length:])
    encoded: Sequence[bytes] = ()
    pixels: memoryview | None = None
    if name == ENCODED:
        encoded = tensors.files(tensor["data"], shape) if sent is None else tensors.elements(sent, shape[0])
    else:
        pixels = memoryview(tensors.numbers(tensor["data"], shape)) if sent is None else sent
        if len(pixels) != math.prod(shape):
            raise InvalidInference(
                f"{name} has {len(pixels)} bytes, and its shape {list(shape)} makes it {math.prod(shape)}"
            )
    return Inference(
        rows=shape[0],
        pixels=pixels,
        encoded=tuple(EncodedImage(file, f"{ENCODED}[{number}]") for number, file in enumerate(encoded)),
        outputs=outputs,
        id=_id(request),
        timeout_s=_timeout_s(parameters),
    )


def _json(text: bytes, values: int) -> dict[str, Any]:
    """Return the JSON object; what would take much memory is refused before it is read."""
    if len(text) > SMALL_JSON:
        most = min(values, _MOST_NUMBERS) + _ROOM
        # Each value but the first of a list or an object has a comma before it.
        if text.count(b",") + text.count(b"[") + text.count(b"{") > most:
            raise InvalidInference(
                f"the JSON holds more than {most} values",
                remedy="Send fewer images in one request, or send them as binary data, or as encoded files.",
            )
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInference(f"the request is no JSON: {str(error)[:100]}") from None
    if not isinstance(found, dict):
        raise InvalidInference("the request is no JSON object")
    return found


def _parameters(holder: dict[str, Any], whose: str) -> dict[str, Any]:
    """Return the parameters of the request or of a tensor; those that nobody knows are passed over."""
    found = holder.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidInference(f"the parameters of {whose} are no object")
    if "temperature" in found and (found["temperature"] != 1 or isinstance(found["temperature"], bool)):
        raise TemperatureNotServed(found["temperature"])
    if "shared_memory_region" in found:
        raise InvalidInference(f"{whose} is to lie in shared memory, which there is none of here")
    return found


def _input(found: object) -> dict[str, Any]:
    """Return the one input."""
    if not isinstance(found, list) or not all(
        isinstance(tensor, dict) and isinstance(tensor.get("name"), str) for tensor in found
    ):
        raise InvalidInference("`inputs` is no list of tensors with names")
    names = [tensor["name"] for tensor in found[:8]]
    if len(found) != 1:
        raise InvalidInference(
            f"a request has one input, {' or '.join(INPUTS)}, got {len(found)}: {_shown(names)}"
        )
    if names[0] not in INPUTS:
        raise InvalidInference(f"there is no input {_shown(names[0])}, only {' and '.join(INPUTS)}")
    tensor: dict[str, Any] = found[0]
    return tensor


def _shape(tensor: dict[str, Any]) -> tuple[int, ...]:
    found = tensor.get("shape")
    if not isinstance(found, list) or not all(type(length) is int and length >= 0 for length in found):
        raise InvalidInference(f"the shape of {tensor['name']} is no list of lengths: {_shown(found)}")
    return tuple(found)


def _sent(tensor: dict[str, Any], rest: memoryview) -> memoryview | None:
    """Return the bytes of the input behind the JSON, or None where its data are in the JSON."""
    name = tensor["name"]
    size = _parameters(tensor, name).get("binary_data_size")
    if size is None:
        if len(rest):
            raise InvalidInference(f"{len(rest)} bytes follow the JSON that belong to no tensor")
        if tensor.get("data") is None:
            raise InvalidInference(f"{name} has neither data nor a binary_data_size")
        return None
    if tensor.get("data") is not None:
        raise InvalidInference(f"{name} has data in the JSON and behind it")
    if type(size) is not int or size != len(rest):
        raise InvalidInference(
            f"the binary_data_size of {name} is {_shown(size)}, and {len(rest)} bytes follow the JSON; "
            f"{HEADER_LENGTH} says where they begin"
        )
    return rest


def _outputs(found: object, binary: bool) -> tuple[WantedOutput, ...]:
    if found is None or found == []:
        return (WantedOutput(PROBABILITIES, binary),)
    if not isinstance(found, list) or len(found) > len(OUTPUTS):
        raise InvalidInference(f"`outputs` is no list of one to {len(OUTPUTS)} tensors")
    wanted = tuple(_output(output, binary) for output in found)
    if len({output.name for output in wanted}) != len(wanted):
        raise InvalidInference(f"an output is wanted twice: {_shown([output.name for output in wanted])}")
    return wanted


def _output(found: object, binary: bool) -> WantedOutput:
    name = found.get("name") if isinstance(found, dict) else None
    if not isinstance(found, dict) or name not in OUTPUTS:
        raise InvalidInference(f"there is no output {_shown(name)}, only {', '.join(OUTPUTS)}")
    parameters = _parameters(found, name)
    classes = parameters.get("classification")
    if classes is not None:
        if name not in (PROBABILITIES, LOGITS):
            raise InvalidInference(f"{PREDICTED} is a class already and has no `classification`")
        if type(classes) is not int or classes < 1:
            raise InvalidInference(f"`classification` is a whole number above 0, got {_shown(classes)}")
    return WantedOutput(name, _flag(parameters, "binary_data", name, default=binary), classes)


def _flag(parameters: dict[str, Any], key: str, whose: str, *, default: bool = False) -> bool:
    found = parameters.get(key, default)
    if not isinstance(found, bool):
        raise InvalidInference(f"`{key}` of {whose} is true or false, got {_shown(found)}")
    return found


def _id(request: dict[str, Any]) -> str | None:
    found = request.get("id")
    if found is None or (isinstance(found, str) and len(found) <= _MOST_ID):
        return found
    raise InvalidInference(f"`id` is text of up to {_MOST_ID} characters")


def _timeout_s(parameters: dict[str, Any]) -> float | None:
    found = parameters.get("timeout")
    if found is None or found == 0:
        return None
    if type(found) is not int or not 0 < found <= _MOST_TIMEOUT_US:
        raise InvalidInference(f"`timeout` is a whole number of microseconds, got {_shown(found)}")
    return found / 1e6


def _shown(given: object) -> str:
    """Return what was given, as far as it fits a sentence."""
    return reprlib.repr(given)
