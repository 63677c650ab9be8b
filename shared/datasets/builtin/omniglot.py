"""Omniglot, the two small background sets together: 242 characters of 8 alphabets, by 20 writers each."""

import re
import zipfile
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from shared.contracts.images import ImageInput
from shared.datasets.builtin.archives import Places, broken, picture
from shared.datasets.builtin.table import Builtin, Files, Read, in_data_dir

SIZE: Final = ImageInput(height=28, width=28, channels=1)
"""The pictures of 105 x 105 pixels are made smaller, bilinear and antialiased."""
_SIDE: Final = 105
_MEMBER: Final = re.compile(r"[^/]+/([^/]+/character[0-9]{2})/[0-9]{4}_([0-9]{2})\.png")


class Counts(NamedTuple):
    """Classes, and how many writers are in each split; the first write the training pictures."""

    classes: int = 242
    train: int = 13
    validation: int = 2
    test: int = 5


REAL: Final = Counts()


def read(files: Files, counts: Counts = REAL) -> Read:
    """Read the zips: ZIP/ALPHABET/characterNN/CCCC_WW.png, WW the writer, 01 to 20.

    Classes are called ALPHABET/characterNN. Those that are in several zips are taken from the first. Ink is
    255 and paper 0, the other way round than in the files.
    """
    members = _members(files, counts)
    classes = tuple(sorted(members))
    if len(classes) != counts.classes:
        raise broken(
            files[0], f"with its sisters it should hold {counts.classes} characters, holds {len(classes)}"
        )
    splits = {
        split: Places(files[0], split, (len(classes) * writers, SIZE.height, SIZE.width, SIZE.channels))
        for split, writers in (
            ("train", counts.train),
            ("validation", counts.validation),
            ("test", counts.test),
        )
    }
    opened = {file: zipfile.ZipFile(file) for file in files}
    try:
        for label, name in enumerate(classes):
            for writer, (file, member) in members[name].items():
                data = _read(opened[file], member, file)
                paper_is_white = picture(data, SIZE, archive=file, member=member, side=_SIDE)
                split, number = _place(writer, counts)
                place = label * getattr(counts, split) + number
                splits[split].put(place, 255 - paper_is_white, label, member=member)
    finally:
        for archive in opened.values():
            archive.close()
    return {split: places.whole() for split, places in splits.items()}, classes


def _members(files: Files, counts: Counts) -> dict[str, dict[int, tuple[Path, str]]]:
    """Return for each class and writer (from 1) which member of which zip the picture is."""
    found: dict[str, dict[int, tuple[Path, str]]] = {}
    for file in files:
        try:
            with zipfile.ZipFile(file) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        except zipfile.BadZipFile as error:
            raise broken(file, "it is cut short or damaged, or no zip") from error
        here: dict[str, dict[int, tuple[Path, str]]] = {}
        for name in names:
            match = _MEMBER.fullmatch(name)
            if match is None:
                raise broken(file, f"{name} should be ALPHABET/characterNN/CCCC_WW.png")
            if not 1 <= int(match[2]) <= sum(counts[1:]):
                raise broken(file, f"{name} is by a writer who is not among the {sum(counts[1:])}")
            here.setdefault(match[1], {})[int(match[2])] = (file, name)
        found = {**here, **found}
    return found


def _place(writer: int, counts: Counts) -> tuple[str, int]:
    """Return split and place in it of a writer, who counts from 1."""
    if writer <= counts.train:
        return "train", writer - 1
    if writer <= counts.train + counts.validation:
        return "validation", writer - counts.train - 1
    return "test", writer - counts.train - counts.validation - 1


def _read(archive: zipfile.ZipFile, member: str, file: Path) -> bytes:
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise broken(file, f"{member} is damaged") from error


OMNIGLOT: Final = Builtin(
    in_data_dir("omniglot/images_background_small1.zip", "omniglot/images_background_small2.zip"), read
)
