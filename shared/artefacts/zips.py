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
_ENTRY: Final = b"PK\x01\x02"
_DEVICE: Final = re.compile(r"(^|/)(con|prn|aux|nul|(com|lpt)[0-9])(\.[^/]*)?(/|$)", re.IGNORECASE)
"""Names that Windows has for devices, whatever comes after their first dot."""
_UNSAFE: Final = re.compile(r"^/|^[A-Za-z]:|(^|/)\.\.?(/|$)|//|[\x00-\x1f\x7f]")


class TooManyMembersError(zipfile.BadZipFile):
    """A zip has more members than are taken."""


@contextmanager
def opened_zip(path: Path, *, most_members: int, largest_piece: int) -> Iterator[zipfile.ZipFile]:
    """Open a zip for reading.

    Args:
        path: of the archive.
        most_members: that it may have.
        largest_piece: most bytes that are read at once, and so of the directory; no less than what the caller
            reads of a member at once.

    Raises:
        TooManyMembersError: it has more.
        zipfile.BadZipFile: it is none, its directory is larger, or a member goes on behind its end.
    """
    with path.open("rb") as file:
        careful = _Careful(file, most_members, largest_piece)
        with zipfile.ZipFile(cast(BinaryIO, careful)) as archive:
            if any(info.header_offset + info.compress_size > careful.size for info in archive.infolist()):
                raise zipfile.BadZipFile("a member goes on behind its end")
            yield archive


def is_safe_name(info: zipfile.ZipInfo) -> bool:
    """Tell whether the name of a member leads to a place inside a folder, on any system."""
    path = info.filename.replace("\\", "/").removeprefix("./").removesuffix("/")
    # The original name may go on after a zero byte, which hides from us what another reader would see.
    hidden = "\0" in info.orig_filename
    unsafe = hidden or _UNSAFE.search(path) or _DEVICE.search(path)
    return bool(path) and len(path) <= LONGEST_NAME and not unsafe


class _Careful:
    """A file of which nobody reads much at once, nor a directory of many entries."""

    def __init__(self, file: BinaryIO, most_members: int, most_bytes: int) -> None:
        self._file = file
        self._most_members = most_members
        self._most_bytes = most_bytes
        self.size = file.seek(0, io.SEEK_END)
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        file.seek(0)

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = self.size - self._file.tell() if size is None or size < 0 else size
        if wanted > self._most_bytes:
            raise zipfile.BadZipFile("its directory is too large")
        data = self._file.read(wanted)
        # Each entry begins with these bytes. Images and weights do not have them by chance, not as often.
        if data.count(_ENTRY) > self._most_members:
            raise TooManyMembersError(f"more than {self._most_members:,} members")
        return data
