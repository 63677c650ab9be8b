"""multipart/form-data as it arrives, part by part and without a file of its own in between."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from shared.errors import MalformedBody

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


@dataclass(frozen=True)
class PartBegins:
    """A part begins; its names are the client's own. `filename` is None for a plain field."""

    name: str
    filename: str | None


@dataclass(frozen=True)
class PartData:
    """Some bytes of the part that began last."""

    data: bytes


@dataclass(frozen=True)
class PartEnds:
    """The part that began last is complete."""


PartEvent = PartBegins | PartData | PartEnds


def media_type(request: Request) -> str:
    """Return the body's media type in lower case without parameters, or an empty string."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def parts(request: Request) -> AsyncIterator[PartEvent]:
    """Yield what the body of a multipart request holds, in order.

    Raises:
        MalformedBody: it is no multipart, a part has no name, or the end is missing.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if not boundary:
        raise MalformedBody("the Content-Type names no boundary")
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())
    except FormParserError as error:
        raise MalformedBody(str(error)) from error
    async for chunk in request.stream():
        try:
            parser.write(chunk)
        except FormParserError as error:
            raise MalformedBody(str(error)) from error
        for event in reader.take():
            yield event
    if not reader.ended:
        raise MalformedBody("the body ends before its last boundary")


class _Reader:
    """Collects the parser's callbacks as events."""

    def __init__(self) -> None:
        self.ended = False
        self._events: list[PartEvent] = []
        self._headers: dict[bytes, bytes] = {}
        self._field = bytearray()
        self._value = bytearray()

    def take(self) -> list[PartEvent]:
        events, self._events = self._events, []
        return events

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_ends,
            "on_headers_finished": self._part_begins,
            "on_part_data": lambda data, start, end: self._events.append(PartData(bytes(data[start:end]))),
            "on_part_end": lambda: self._events.append(PartEnds()),
            "on_end": self._body_ends,
        }

    def _header_ends(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _part_begins(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise MalformedBody("a part has no name")
        filename = options.get(b"filename")
        self._events.append(
            PartBegins(
                options[b"name"].decode("utf-8", "replace"),
                None if filename is None else filename.decode("utf-8", "replace"),
            )
        )

    def _body_ends(self) -> None:
        self.ended = True
