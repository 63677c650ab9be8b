"""Opens zips that strangers send: bounded before anything of them is read, and with names that lead nowhere.

Python's `zipfile` reads the whole directory of an archive, and makes an object of each entry, before anybody
can count them: a directory of a few hundred megabytes, which is all that a zip has to have, becomes GB.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

LONGEST_NAME: Final = 512
_UNSAFE: Final = re.compile(r"^/|^[A-Za-z]:|(^|/)\.\.?(/|$)|//|[\x00-\x1f\x7f]")


@contextmanager
def opened_zip(path: Path, *, largest_piece: int) -> Iterator[zipfile.ZipFile]:
    """Open a zip for reading.

    Args:
        path: of the archive.
        largest_piece: most bytes that are read at once, and so of the directory; no less than what the caller
            reads of a member at once.

    Raises:
        zipfile.BadZipFile: it is none, or its directory is larger.
    """
    with path.open("rb") as file, zipfile.ZipFile(cast(BinaryIO, _Careful(file, largest_piece))) as archive:
        yield archive


def is_safe_name(info: zipfile.ZipInfo) -> bool:
    """Tell whether the name of a member leads to a place inside a folder, on any system."""
    path = info.filename.replace("\\", "/").removeprefix("./").removesuffix("/")
    # The original name may go on after a zero byte, which hides from us what another reader would see.
    hidden = "\0" in info.orig_filename
    return bool(path) and len(path) <= LONGEST_NAME and not hidden and not _UNSAFE.search(path)


class _Careful:
    """A file of which nobody reads much at once."""

    def __init__(self, file: BinaryIO, most_bytes: int) -> None:
        self._file = file
        self._most_bytes = most_bytes
        self._size = file.seek(0, io.SEEK_END)
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        file.seek(0)

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._size - self._file.tell() if size is None or size < 0 else size
        if wanted > self._most_bytes:
            raise zipfile.BadZipFile("its directory is too large")
        return self._file.read(wanted)
