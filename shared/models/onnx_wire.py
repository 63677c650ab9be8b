"""Reads from an ONNX file which operators it uses and where its tensors lie, without building the graph.

An ONNX file is one protobuf message (onnx.proto, IR version 3 and later). Tensors are passed over, not read:
a file of a gigabyte costs what its nodes cost. Nothing that the file names is opened.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.errors import InvalidModelFiles

_MOST_FIELDS: Final = 20_000_000
"""Of a file: far more than a net has, and a bound for one that was made to be slow."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_MESSAGES: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "StringString"},
    "OperatorSet": {},
    "StringString": {},
}
"""Messages that are looked into, by the numbers of the fields that hold them."""

_NODE_OPERATOR, _NODE_DOMAIN = 4, 7
_TENSOR_LOCATION = 14
_SET_DOMAIN, _SET_VERSION = 1, 2


@dataclass
class Contents:
    """What was found in a file."""

    operators: set[str] = field(default_factory=set)
    """`Conv`, or `domain.Name` of another domain than ONNX's own."""
    opsets: dict[str, int] = field(default_factory=dict)
    """Versions by domain; ONNX's own is `ai.onnx`."""
    external: bool = False
    """Whether a tensor lies in another file."""


def read_contents(path: Path) -> Contents:
    """Return what an ONNX file is made of.

    Raises:
        InvalidModelFiles: it is no ONNX file, or is cut short.
    """
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file cannot be mapped
            raise InvalidModelFiles("it is empty", file=path.name) from error
    # Not closed by hand: an error on its way still has hold of the view. It ends with its last use.
    try:
        return _Reader().read(memoryview(mapped))
    except ValueError as error:
        raise InvalidModelFiles(f"no ONNX model: {error}", file=path.name) from error


class _Reader:
    def __init__(self) -> None:
        self._found = Contents()
        self._fields = 0

    def read(self, model: memoryview) -> Contents:
        pending = [("Model", model)]
        graphs = 0
        while pending:  # not by recursion: a file may be nested as deep as it likes
            kind, message = pending.pop()
            graphs += kind == "Graph"
            for number, value in self._fields_of(message):
                inner = _MESSAGES[kind].get(number)
                if inner is not None:
                    if not isinstance(value, memoryview):
                        raise ValueError(f"field {number} of a {kind} is no message")
                    pending.append((inner, value))
            self._note(kind, message)
        if not graphs or not self._found.opsets:
            raise ValueError("there is no graph in it, or no set of operators")
        return self._found

    def _note(self, kind: str, message: memoryview) -> None:
        if kind == "Node":
            values = dict(self._fields_of(message))
            operator, domain = _text(values.get(_NODE_OPERATOR)), _text(values.get(_NODE_DOMAIN))
            self._found.operators.add(operator if domain in ("", "ai.onnx") else f"{domain}.{operator}")
        elif kind == "OperatorSet":
            values = dict(self._fields_of(message))
            version = values.get(_SET_VERSION, 0)
            self._found.opsets[_text(values.get(_SET_DOMAIN)) or "ai.onnx"] = (
                version if isinstance(version, int) else 0
            )
        elif kind == "StringString":
            self._found.external = True
        elif kind == "Tensor":
            self._found.external |= any(
                number == _TENSOR_LOCATION and value != 0 for number, value in self._fields_of(message)
            )

    def _fields_of(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Yield number and value of each field; numbers of fixed width are passed over as 0."""
        place = 0
        while place < len(message):
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise ValueError(f"it has more than {_MOST_FIELDS:,} fields")
            tag, place = _varint(message, place)
            number, wire = tag >> 3, tag & 7
            value: int | memoryview = 0
            if wire == _VARINT:
                value, place = _varint(message, place)
            elif wire == _BYTES:
                length, place = _varint(message, place)
                value = message[place : place + length]
                place += length
            elif wire in (_FIXED64, _FIXED32):
                place += 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"there is no wire type {wire}")
            if number == 0 or place > len(message):
                raise ValueError("it is cut short, or not protobuf")
            yield number, value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("it is cut short, or not protobuf")


def _text(value: int | memoryview | None) -> str:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""
