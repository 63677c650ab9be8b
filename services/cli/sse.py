"""Reads server-sent events, as the WHATWG HTML standard (section 9.2.6) defines them.

httpx's own `iter_lines` also splits at U+2028 and other marks that may stand inside an event's data.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True)
class ServerEvent:
    """One event of the stream. `id` is the last that the server named, empty where it never did."""

    data: str
    kind: str = "message"
    id: str = ""


def read_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Cut a stream of bytes into lines; an unfinished last line is dropped, as the standard says."""
    rest = b""
    first = True
    for chunk in chunks:
        # A carriage return at the end of a chunk waits: a line feed may follow in the next.
        *whole, rest = _LINE_END.split(rest + chunk)
        for line in whole:
            yield line.removeprefix(b"\xef\xbb\xbf" if first else b"").decode("utf-8", errors="replace")
            first = False


def read_events(chunks: Iterable[bytes]) -> Iterator[ServerEvent]:
    """Yield the events of a stream; comments and events without data yield nothing."""
    data: list[str] = []
    kind = ""
    last_id = ""
    for line in read_lines(chunks):
        if not line:
            if data:
                yield ServerEvent("\n".join(data), kind or "message", last_id)
            data, kind = [], ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            kind = value
        elif field == "id" and "\0" not in value:
            last_id = value
