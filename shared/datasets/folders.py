"""Reads a zip with a folder a class, trusting nothing that it says of itself and writing nothing to disk.

Layouts, each possibly inside one folder that holds everything:

    <class>/<image>                         without splits
    train/<class>/<image>  test/<class>/…   with splits; also validation/
    unlabelled/<image>                      in place of train/: training images without labels
"""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.artefacts.zips import TooManyMembersError, is_safe_name, opened_zip
from shared.datasets.assemble import Example
from shared.datasets.limits import UploadLimits
from shared.errors import ImageTooLarge, InvalidDataset

ZIP_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06")

SPLIT_FOLDERS: Final = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
}
_IGNORED: Final = re.compile(r"(^|/)(__MACOSX/|\.|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
_NOTES: Final = re.compile(r"^[^/]*(\.(txt|md|json|csv|ya?ml)|README|LICEN[CS]E)$", re.IGNORECASE)
_ARCHIVES: Final = re.compile(r"\.(zip|tar|gz|tgz|bz2|xz|zst|7z|rar|jar|whl)$", re.IGNORECASE)
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENTRY_BYTES: Final = 640
"""Of the directory for each member that there may be: 46 and its name, which is of 512 bytes at most."""
# What zipfile raises on damaged archives, found by trying thousands of them.
_DAMAGE: Final = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class _Member:
    """A file in the archive: its entry, and its path without the folder that holds everything."""

    info: zipfile.ZipInfo
    path: str


def read_zip(path: Path, name: str, limits: UploadLimits) -> Iterator[Example]:
    """Yield the images of a zip in the order of their paths.

    Raises:
        InvalidDataset: not a zip, damaged, encrypted, over a limit, with links, unsafe or double names, or
            archives inside; or folders that are neither classes nor splits.
        ImageTooLarge: an image is over the limit in bytes.
    """
    try:
        largest = max(limits.images.size_bytes + 1, limits.members * _ENTRY_BYTES)
        with opened_zip(path, most_members=limits.members, largest_piece=largest) as archive:
            members = _without_common_folder(_checked(archive.infolist(), name, limits))
            budget = _Budget(limits, path.stat().st_size, name)
            for member, split, label in _placed(members):
                yield Example(split, label, _read(archive, member, budget), member.info.filename)
    except TooManyMembersError as error:
        raise InvalidDataset(f"{name} has more than {limits.members:,} members") from error
    except _DAMAGE as error:
        raise InvalidDataset(f"{name} is no zip, or it is damaged") from error


# --- what may be in the archive ----------------------------------------------------------------------------


def _checked(infos: list[zipfile.ZipInfo], name: str, limits: UploadLimits) -> list[_Member]:
    members: dict[str, _Member] = {}
    for info in infos:
        path = info.filename.replace("\\", "/").removeprefix("./")
        if not path and info.filename.endswith("/"):
            continue
        path = path.removesuffix("/")
        if not is_safe_name(info):
            raise InvalidDataset(f"{name} has a member with an unsafe name: {info.filename[:100]!r}")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InvalidDataset(f"{path} in {name} is a link or a special file")
        if path in members:
            raise InvalidDataset(f"{path} is in {name} twice")
        members[path] = _Member(info, path)
        _check_packing(info, path, name, limits)
    files = [member for member in members.values() if not member.info.is_dir()]
    for member in files:
        if _ARCHIVES.search(member.path):
            raise InvalidDataset(f"{member.path} in {name} is an archive inside the archive")
    return [member for member in files if not _IGNORED.search(member.path)]


def _check_packing(info: zipfile.ZipInfo, path: str, name: str, limits: UploadLimits) -> None:
    if info.flag_bits & 0x1:
        raise InvalidDataset(f"{path} in {name} is encrypted")
    if info.compress_type not in _METHODS:
        raise InvalidDataset(f"{path} in {name} is packed by another method than deflate")
    if info.file_size > limits.ratio * max(info.compress_size, 1):
        raise InvalidDataset(f"{path} in {name} unpacks to more than {limits.ratio} times its size")


class _Budget:
    """Counts what was really unpacked: overlapping members make sizes in the directory meaningless."""

    def __init__(self, limits: UploadLimits, packed_bytes: int, name: str) -> None:
        self.limits = limits
        self._left = min(limits.unpacked_bytes, limits.ratio * packed_bytes)
        self._name = name

    def spend(self, size_bytes: int) -> None:
        self._left -= size_bytes
        if self._left < 0:
            raise InvalidDataset(
                f"{self._name} unpacks to more than {self.limits.unpacked_bytes:,} bytes, "
                f"or to more than {self.limits.ratio} times its size"
            )


def _read(archive: zipfile.ZipFile, member: _Member, budget: _Budget) -> bytes:
    most = budget.limits.images.size_bytes
    try:
        with archive.open(member.info) as file:
            data = file.read(most + 1)
    except _DAMAGE as error:
        raise InvalidDataset(f"{member.info.filename} is damaged inside the archive") from error
    if len(data) > most:
        raise ImageTooLarge(f"the image has more than {most:,} bytes", file=member.info.filename)
    budget.spend(len(data))
    return data


# --- what the folders mean ---------------------------------------------------------------------------------


def _without_common_folder(members: list[_Member]) -> list[_Member]:
    """Take off the folder that holds everything, which many programs add when they pack."""
    while True:
        members = [member for member in members if not _NOTES.match(member.path)]
        tops = {member.path.split("/", 1)[0].lower() for member in members}
        inside = [member.path.partition("/")[2] for member in members]
        depths = {path.count("/") for path in inside if not _NOTES.match(path)}
        if len(tops) != 1 or 0 in depths or tops <= SPLIT_FOLDERS.keys():
            return members
        members = [_Member(member.info, member.path.split("/", 1)[1]) for member in members]


def _placed(members: list[_Member]) -> Iterator[tuple[_Member, str, str | None]]:
    """Yield each member with its split and its class, sorted by path."""
    tops = {member.path.split("/", 1)[0].lower() for member in members if "/" in member.path}
    in_splits = tops <= SPLIT_FOLDERS.keys() and not tops.isdisjoint({"train", "unlabelled", "unlabeled"})
    if in_splits and {"train", "unlabelled"} <= {SPLIT_FOLDERS[top] for top in tops}:
        raise InvalidDataset(
            "there are both train/ and unlabelled/", remedy="Send labelled or unlabelled training images."
        )
    for member in sorted(members, key=lambda member: member.path):
        folders = member.path.split("/")[:-1]
        if not in_splits:
            split, rest = "train", folders
        elif not folders:
            raise InvalidDataset(f"{member.info.filename} lies in no folder")
        else:
            split, rest = SPLIT_FOLDERS[folders[0].lower()], folders[1:]
        if split == "unlabelled":
            yield member, "train", None
        elif len(rest) == 1:
            yield member, split, rest[0]
        else:
            what = "no class folder" if not rest else "a folder inside a class folder"
            raise InvalidDataset(f"{member.info.filename} lies in {what}")
