"""Reads server-sent events, as the WHATWG HTML standard (section 9.2.6) defines them.

httpx's own `iter_lines` also splits at U+2028 and other marks that may stand inside an event's data.
"""

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True)
class ServerEvent:
    """One event of the stream. `id` is the last that the server named, empty where it never did."""

    data: str
    kind: str = "message"
    id: str = ""


class EventParser:
    """Takes the bytes of one stream as they come and gives the events that they complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._data: list[str] = []
        self._kind = ""
        self._last_id = ""

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Return the events that end in this chunk; comments and events without data are none."""
        # A carriage return at the end of a chunk waits: a line feed may follow in the next.
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        events = []
        for line in lines:
            whole = line if self._begun else line.removeprefix(b"\xef\xbb\xbf")
            self._begun = True
            event = self._take(whole.decode("utf-8", errors="replace"))
            if event is not None:
                events.append(event)
        return events

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            data, kind = self._data, self._kind
            self._data, self._kind = [], ""
            return ServerEvent("\n".join(data), kind or "message", self._last_id) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._kind = value
        elif field == "id" and "\0" not in value:
            self._last_id = value
        return None
