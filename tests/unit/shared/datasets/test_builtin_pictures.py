"""CIFAR-10, Tiny ImageNet and Omniglot, from tiny archives in the layout of the real ones."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.datasets import Split
from shared.datasets.builtin import cifar10, omniglot, tiny_imagenet
from shared.errors import InvalidDataset
from tests.support.archives import jpeg, png_bits, tar_xz, zip_file

# --- CIFAR-10 ----------------------------------------------------------------------------------------------

CIFAR = cifar10.Counts(train=3, validation=1, test=2)


def cifar_members() -> dict[str, bytes]:
    """Red is the class, green the number, blue the part."""
    return {
        f"{part}/{name}/{number:04d}.jpg": jpeg((20 * label, 40 * number, blue))
        for part, blue, count in (("test", 200, 2), ("train", 0, 4))
        for label, name in enumerate(cifar10.CLASSES)
        for number in range(count)
    }


def colours(split: Split) -> np.ndarray:
    """Return the mean colour of each image."""
    return split.images.reshape(len(split), -1, 3).mean(axis=1)


def test_cifar10_is_read_with_each_picture_under_its_class(tmp_path: Path) -> None:
    splits, classes = cifar10.read((tar_xz(tmp_path / "c.tar.xz", cifar_members()),), CIFAR)
    assert classes[3] == "cat"
    assert {name: len(split) for name, split in splits.items()} == {"train": 30, "validation": 10, "test": 20}
    for name, numbers, blue in (("train", [0, 1, 2], 0), ("validation", [3], 0), ("test", [0, 1], 200)):
        split = splits[name]
        assert split.labels is not None
        expected = [(20 * label, 40 * number, blue) for label in range(10) for number in numbers]
        assert split.labels.tolist() == np.repeat(np.arange(10), len(numbers)).tolist()
        np.testing.assert_allclose(colours(split), expected, atol=4)


# --- Tiny ImageNet -----------------------------------------------------------------------------------------

TINY = tiny_imagenet.Counts(classes=3, train=2, validation=1, test=2)
WNIDS = ("n00000001", "n00000002", "n00000003")
VAL_LABELS = [2, 0, 1, 1, 0, 2]


def tiny_members() -> dict[str, bytes]:
    """Red is the class, green the number, blue the part."""
    train = {
        f"train/{wnid}/images/{wnid}_{number}.JPEG": jpeg((60 * label, 40 * number, 0))
        for label, wnid in enumerate(WNIDS)
        for number in range(3)
    }
    val = {
        f"val/images/val_{number}.JPEG": jpeg((60 * label, 40 * number, 200))
        for number, label in enumerate(VAL_LABELS)
    }
    lines = [f"val_{number}.JPEG\t{WNIDS[label]}\t0\t0\t31\t31" for number, label in enumerate(VAL_LABELS)]
    texts = {
        "val/val_annotations.txt": "\n".join(lines).encode(),
        "wnids.txt": "\n".join(WNIDS[::-1]).encode(),
    }
    return {**train, **val, **texts}


@pytest.mark.parametrize("first", [None, 2])
def test_tiny_imagenet_is_read_whole_or_its_first_classes(tmp_path: Path, first: int | None) -> None:
    file = tar_xz(tmp_path / "t.tar.xz", tiny_members())
    splits, classes = tiny_imagenet.read((file,), TINY, first=first)
    taken = first or 3
    assert classes == WNIDS[:taken]
    test = [(60 * label, 40 * number, 200) for number, label in enumerate(VAL_LABELS) if label < taken]
    expected = {
        "train": [(60 * label, 40 * number, 0) for label in range(taken) for number in (0, 1)],
        "validation": [(60 * label, 80, 0) for label in range(taken)],
        "test": test,
    }
    for name, split in splits.items():
        assert split.labels is not None
        np.testing.assert_allclose(colours(split), expected[name], atol=4)
        np.testing.assert_array_equal(split.labels * 60, [red for red, _, _ in expected[name]])


# --- Omniglot ----------------------------------------------------------------------------------------------

OMNIGLOT = omniglot.Counts(classes=3, train=2, validation=1, test=1)


def omniglot_members(alphabet_of: Mapping[str, int], archive: str) -> dict[str, bytes]:
    """Each class has ink in a column of its own, as wide as the writer's number times 15."""
    members = {}
    for name, begin in alphabet_of.items():
        for writer in (1, 2, 3, 4):
            ink = np.zeros((105, 105), np.bool_)
            ink[begin : begin + 15, : 15 * writer] = True
            members[f"{archive}/{name}/{begin:04d}_{writer:02d}.png"] = png_bits(ink)
    return members


def omniglot_files(folder: Path) -> tuple[Path, ...]:
    one = omniglot_members({"Latin/character01": 0, "Greek/character02": 30}, "small1")
    two = omniglot_members({"Greek/character02": 90, "Tagalog/character01": 60}, "small2")
    return zip_file(folder / "1.zip", one), zip_file(folder / "2.zip", two)


def test_omniglot_has_each_character_once_split_by_writer_with_bright_ink(tmp_path: Path) -> None:
    splits, classes = omniglot.read(omniglot_files(tmp_path), OMNIGLOT)
    assert classes == ("Greek/character02", "Latin/character01", "Tagalog/character01")
    for name, writers in (("train", [1, 2]), ("validation", [3]), ("test", [4])):
        split = splits[name]
        assert split.labels is not None
        assert split.labels.tolist() == np.repeat([0, 1, 2], len(writers)).tolist()
        for image, label, writer in zip(split.images[..., 0], split.labels, writers * 3, strict=True):
            row = (30, 0, 60)[label] * 28 // 105  # the Greek one is that of the first zip
            ink = np.zeros((28, 28), np.bool_)
            ink[row : row + 4, : 4 * writer] = True
            np.testing.assert_array_equal(image > 127, ink)  # edges are antialiased
            assert image.max() == 255
            assert np.median(image) == 0


# --- broken ------------------------------------------------------------------------------------------------

Members = dict[str, bytes]


def without(members: Members, part: str) -> Members:
    return {name: data for name, data in members.items() if part not in name}


def renamed(members: Members, old: str, new: str) -> Members:
    return {name.replace(old, new): data for name, data in members.items()}


def with_bytes(members: Members, name: str, data: bytes) -> Members:
    return {**members, name: data}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda m: without(m, "train/cat/0003"), "holds 9 of 10 pictures of validation"),
        (lambda m: without(m, "train/cat/0000"), "holds 29 of 30 pictures of train"),
        (lambda m: without(m, "test/"), "holds 0 of 20 pictures of test"),
        (lambda m: renamed(m, "cat/", "lynx/"), "should be train/CLASS"),
        (lambda m: with_bytes(m, "readme.txt", b""), "readme.txt should be"),
        (lambda m: with_bytes(m, "train/cat/0004.jpg", jpeg((0, 0, 0))), "one picture too many"),
        (lambda m: with_bytes(m, "train/cat/0001.jpg", b"no picture"), "train/cat/0001.jpg: this is not a"),
        (lambda m: with_bytes(m, "train/cat/0001.jpg", jpeg((0, 0, 0))[:-30]), "truncated or damaged"),
        (lambda m: with_bytes(m, "train/cat/0001.jpg", jpeg((0, 0, 0), 16)), "16 x 16 pixels, not 32 x 32"),
    ],
)
def test_a_cifar10_that_is_not_whole_is_refused(
    tmp_path: Path, damage: Callable[[Members], Members], words: str
) -> None:
    file = tar_xz(tmp_path / "c.tar.xz", damage(cifar_members()))
    with pytest.raises(InvalidDataset, match=words) as refusal:
        cifar10.read((file,), CIFAR)
    assert str(refusal.value).startswith("c.tar.xz: ")
    assert "README" in refusal.value.remedy


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda m: without(m, "n00000002_1"), "holds 5 of 6 pictures of train"),
        (lambda m: without(m, "train/n00000003"), "should have the 3 classes of wnids.txt in order, has 2"),
        (lambda m: dict(sorted(m.items(), reverse=True)), "in order"),
        (lambda m: without(m, "wnids"), "3 classes of wnids.txt"),
        (lambda m: without(m, "annotations"), "names 0 of 6 pictures"),
        (lambda m: without(m, "val_3"), "holds 5 of 6 pictures of val"),
        (lambda m: with_bytes(m, "val/val_annotations.txt", b"val_0.JPEG n00000001"), "not file, class, box"),
        (
            lambda m: with_bytes(
                m, "val/val_annotations.txt", m["val/val_annotations.txt"].replace(b"n00000001", b"n00000002")
            ),
            "2 pictures of each class",
        ),
        (lambda m: with_bytes(m, "test/images/test_0.JPEG", b""), "does not belong here"),
    ],
)
def test_a_tiny_imagenet_that_is_not_whole_is_refused(
    tmp_path: Path, damage: Callable[[Members], Members], words: str
) -> None:
    file = tar_xz(tmp_path / "t.tar.xz", damage(tiny_members()))
    with pytest.raises(InvalidDataset, match=words):
        tiny_imagenet.read((file,), TINY)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda m: without(m, "0000_03"), "2 of 3 pictures of validation"),
        (lambda m: without(m, "Latin"), "should hold 3 characters, holds 2"),
        (lambda m: renamed(m, "_04.png", "_05.png"), "not among the 4"),
        (lambda m: renamed(m, "_01.png", "_00.png"), "not among the 4"),
        (lambda m: with_bytes(m, "small1/notes.txt", b""), "should be ALPHABET"),
        (
            lambda m: with_bytes(
                m, "small1/Latin/character01/0000_01.png", png_bits(np.zeros((28, 28), bool))
            ),
            "28 x 28 pixels, not 105 x 105",
        ),
    ],
)
def test_an_omniglot_that_is_not_whole_is_refused(
    tmp_path: Path, damage: Callable[[Members], Members], words: str
) -> None:
    files = omniglot_files(tmp_path)
    one = omniglot_members({"Latin/character01": 0, "Greek/character02": 30}, "small1")
    zip_file(files[0], damage(one))
    with pytest.raises(InvalidDataset, match=words):
        omniglot.read(files, OMNIGLOT)


@pytest.mark.parametrize("end", [0, 100, -100])
def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path, end: int) -> None:
    tar = tar_xz(tmp_path / "c.tar.xz", cifar_members())
    zips = omniglot_files(tmp_path)
    for file in (tar, zips[1]):
        file.write_bytes(file.read_bytes()[:end])
    with pytest.raises(InvalidDataset, match="cut short"):
        cifar10.read((tar,), CIFAR)
    with pytest.raises(InvalidDataset, match="cut short"):
        omniglot.read(zips, OMNIGLOT)


def test_a_damaged_member_of_a_zip_is_named(tmp_path: Path) -> None:
    files = omniglot_files(tmp_path)
    data = bytearray(files[0].read_bytes())
    where = data.index(b"\x89PNG") if b"\x89PNG" in data else 80
    data[where + 20] ^= 0xFF
    files[0].write_bytes(data)
    with pytest.raises(InvalidDataset, match=r"character0\d/\d{4}_\d\d.png"):
        omniglot.read(files, OMNIGLOT)
