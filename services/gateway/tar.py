"""A tar of files, made while it is sent: nothing is written, memory stays flat, its length is known before.

POSIX.1-1988 with the base-256 lengths of GNU tar, which every reader of today understands: a header of 512
bytes a file, whatever its size.
"""

import tarfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.errors import Corrupt

TAR_MEDIA_TYPE: Final = "application/x-tar"
_PIECE_BYTES: Final = 2**20
_END: Final = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class TarEntry:
    """A file of a tar. `path` is called when its turn comes, and says where its bytes are."""

    name: str
    """At most 100 bytes long."""
    size_bytes: int
    path: Callable[[], Path]


def tar_bytes(entries: Sequence[TarEntry]) -> int:
    """Return how long the tar of these files is."""
    contents = sum(tarfile.BLOCKSIZE + _padded(entry.size_bytes) for entry in entries)
    return contents + len(_END)


def tar_pieces(entries: Sequence[TarEntry], modified: datetime) -> Generator[bytes]:
    """Yield the tar of these files in pieces of at most a mebibyte.

    Raises:
        Corrupt: a file is not as long as was said; what was sent cannot be called back.
        OSError: a file cannot be read any more.
    """
    for entry in entries:
        header = tarfile.TarInfo(entry.name)
        header.size, header.mtime, header.mode = entry.size_bytes, int(modified.timestamp()), 0o644
        yield header.tobuf(tarfile.GNU_FORMAT)
        path, left = entry.path(), entry.size_bytes
        with path.open("rb") as file:
            while piece := file.read(min(_PIECE_BYTES, left)):
                left -= len(piece)
                yield piece
            if left or file.read(1):
                raise Corrupt(str(path))
        yield bytes(_padded(entry.size_bytes) - entry.size_bytes)
    yield _END


class TarResponse(StreamingResponse):
    """Sends a tar; a client that leaves in the middle leaves no file open."""

    media_type = TAR_MEDIA_TYPE

    def __init__(self, entries: Sequence[TarEntry], modified: datetime, filename: str) -> None:
        """Prepare the answer.

        Args:
            entries: in the order in which they are packed.
            modified: stated for every file.
            filename: that a browser is to save the tar under.
        """
        self._pieces = tar_pieces(entries, modified)
        headers = {
            "Content-Length": str(tar_bytes(entries)),
            "Content-Disposition": f'attachment; filename="{filename}"',
        }
        super().__init__(self._pieces, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._pieces.close()


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
