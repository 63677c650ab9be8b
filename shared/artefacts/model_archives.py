"""Reads a zip of a model's files, trusting nothing that it says of itself.

The files may lie in one folder that holds everything. What sources of the kind do not have is refused, so
the notes of a hub folder are to be left out. Members are written one by one, counted as they come.
"""

import errno
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Final

from shared.artefacts.model_files import FilesKind, checked_name
from shared.artefacts.zips import TooManyMembersError, is_safe_name, opened_zip
from shared.errors import BodyTooLarge, InvalidModelFiles, PickleRefused

_MOST_MEMBERS: Final = 256
_PIECE_BYTES: Final = 2**20
"""Of a file that is read at once, and of the directory of a zip: 256 members take a tenth of it."""
_RATIO: Final = 100
"""Largest quotient of unpacked and packed size; weights hardly shrink at all."""
_SMALL_BYTES: Final = 2**20
"""Which may be packed as tightly as they like: texts."""
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE: Final = (
    zipfile.BadZipFile, EOFError, NotImplementedError, OverflowError, RuntimeError, ValueError,
    struct.error, zlib.error,
)  # fmt: skip


def unpack_model(archive: Path, directory: Path, kind: FilesKind, most_bytes: int) -> list[Path]:
    """Write the files of a model out of a zip into a folder, under their checked names.

    Args:
        archive: the zip.
        directory: where its files go; it exists.
        kind: of the source: it says which names there may be.
        most_bytes: of all files together, unpacked.

    Returns:
        Where the files lie.

    Raises:
        PickleRefused: a member is a pickle by its name, or the zip is one that `torch.save` wrote.
        InvalidModelFiles: no zip, damaged, encrypted, with links, with names that lead out of a folder, with
            a file that is not of the kind, or packed more tightly than weights can be.
        BodyTooLarge: there is more in it than `most_bytes`.
    """
    try:
        with opened_zip(archive, most_members=_MOST_MEMBERS, largest_piece=_PIECE_BYTES) as opened:
            members = _members(opened.infolist(), kind)
            budget = _Budget(most_bytes, max(_SMALL_BYTES, _RATIO * archive.stat().st_size))
            for name, info in members.items():
                _write(opened, info, directory / name, budget)
    except TooManyMembersError as error:
        raise InvalidModelFiles(f"the zip has more than {_MOST_MEMBERS} members") from error
    except _DAMAGE as error:
        raise InvalidModelFiles("the zip is none, or it is damaged") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a disk that is full, and the like
            raise
        raise InvalidModelFiles("the zip names places outside of itself") from error
    return [directory / name for name in members]


def _members(infos: list[zipfile.ZipInfo], kind: FilesKind) -> dict[str, zipfile.ZipInfo]:
    """Return the files by the name each is to have; of a member's own path only the last part is used."""
    for info in infos:
        if not is_safe_name(info):
            raise InvalidModelFiles("the zip has a member whose name leads out of a folder, or nowhere")
    files = [info for info in infos if not info.is_dir() and not info.filename.startswith("__MACOSX/")]
    if any(info.filename.endswith("data.pkl") for info in files):
        raise PickleRefused("the zip", "torch.save wrote it, around a pickle")
    folders = {info.filename.rpartition("/")[0] for info in files}
    if len(folders) > 1:
        raise InvalidModelFiles("the files of the zip lie in more than one folder")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in files:
        name = checked_name(info.filename, kind)
        if name in members:
            raise InvalidModelFiles(f"{name} is in the zip twice")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG) or info.flag_bits & 0x1:
            raise InvalidModelFiles("it is a link, a special file or encrypted", file=name)
        if info.compress_type not in _METHODS:
            raise InvalidModelFiles("it is packed by another method than deflate", file=name)
        members[name] = info
    return members


class _Budget:
    """Counts what was really unpacked, whatever the zip says of itself."""

    def __init__(self, most_bytes: int, packed_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._packed_bytes = packed_bytes
        self._spent = 0

    def spend(self, size_bytes: int) -> None:
        self._spent += size_bytes
        if self._spent > self._most_bytes:
            raise BodyTooLarge(self._most_bytes)
        if self._spent > self._packed_bytes:
            raise InvalidModelFiles(f"the zip unpacks to more than {_RATIO} times its size")


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, budget: _Budget) -> None:
    """Write one member, which may have more bytes than the zip says."""
    with archive.open(info) as packed, path.open("xb") as file:
        while piece := packed.read(_PIECE_BYTES):
            budget.spend(len(piece))
            file.write(piece)
