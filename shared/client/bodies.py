"""Bodies of requests: forms whose files are read while they are sent (RFC 7578)."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PIECE_BYTES: Final = 256 * 1024
_ESCAPES: Final = {ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"}
"""As the WHATWG HTML standard (section 4.10.22.8) writes names into a form."""


@dataclass(frozen=True)
class Part:
    """One field of a form: bytes, or a file that is read when it is sent."""

    name: str
    content: bytes | Path
    file: str | None = None
    """The name it is sent under, where it is a file."""
    media_type: str | None = None


class Form:
    """A `multipart/form-data` body; each walk over it reads the files anew, so it can be sent again.

    Args:
        parts: in the order in which they are sent.
        sent: is told how many more bytes of the files have gone out.
    """

    def __init__(self, parts: Sequence[Part], sent: Callable[[int], None] | None = None) -> None:
        self._boundary = secrets.token_hex(16)
        self._parts = [(self._head(part), part.content) for part in parts]
        self._end = f"--{self._boundary}--\r\n".encode()
        self._sent = sent

    @property
    def media_type(self) -> str:
        """The `Content-Type` with its boundary."""
        return f"multipart/form-data; boundary={self._boundary}"

    def size_bytes(self) -> int:
        """Return how long the body is; raises OSError where a file is not there."""
        return len(self._end) + sum(len(head) + _size_bytes(content) + 2 for head, content in self._parts)

    def pieces(self) -> Iterator[bytes]:
        """Yield the body."""
        for head, content in self._parts:
            yield head
            if isinstance(content, bytes):
                yield content
            else:
                with content.open("rb") as file:
                    while piece := file.read(_PIECE_BYTES):
                        yield piece
                        self._tell(piece)
            yield b"\r\n"
        yield self._end

    async def pieces_async(self) -> AsyncIterator[bytes]:
        """Yield the body; files are read in threads."""
        for head, content in self._parts:
            yield head
            if isinstance(content, bytes):
                yield content
            else:
                with await asyncio.to_thread(content.open, "rb") as file:
                    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
                        yield piece
                        self._tell(piece)
            yield b"\r\n"
        yield self._end

    def _head(self, part: Part) -> bytes:
        lines = [f"--{self._boundary}", f'Content-Disposition: form-data; name="{_escaped(part.name)}"']
        if part.file is not None:
            lines[1] += f'; filename="{_escaped(part.file)}"'
        if part.media_type is not None:
            lines.append(f"Content-Type: {part.media_type}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _tell(self, piece: bytes) -> None:
        if self._sent is not None:
            self._sent(len(piece))


def _escaped(name: str) -> str:
    return name.translate(_ESCAPES)


def _size_bytes(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
