"""Zips with a folder a class, honest and hostile."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from shared.artefacts.datasets import Split
from shared.datasets.images import ImageLimits
from shared.datasets.limits import UploadLimits
from shared.datasets.uploads import read_upload
from shared.errors import ImageTooLarge, InvalidDataset, InvalidImage, LabelsMissing
from tests.support.uploads import Digits, encode, folders_of, write_zip

GREY = encode(np.zeros((8, 8), np.uint8))


def read(path: Path, **options: object) -> tuple[dict[str, Split], tuple[str, ...], str]:
    return read_upload([path], [path.name], **options)  # type: ignore[arg-type]


def pairs(split: Split) -> set[tuple[bytes, int]]:
    assert split.labels is not None
    return {(image.tobytes(), int(label)) for image, label in zip(split.images, split.labels, strict=True)}


# --- honest ones -------------------------------------------------------------------------------------------


def test_images_of_a_zip_keep_pixels_and_labels(tmp_path: Path, digits: Digits) -> None:
    splits, classes, source = read(write_zip(tmp_path / "digits.zip", folders_of(digits)))
    assert classes == tuple("0123456789")
    assert source == "zip upload: digits.zip"
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 96,
        "validation": 12,
        "test": 12,
    }
    everything = set().union(*map(pairs, splits.values()))
    assert everything == {(pixels.tobytes(), label) for pixels, label in digits}
    for split in splits.values():
        assert set(split.labels.tolist()) == set(range(10))  # type: ignore[union-attr]


@pytest.mark.parametrize("wrapper", ["", "digits/", "a/b/", "./"])
@pytest.mark.parametrize("validation", ["validation", "val", "Valid"])
def test_split_folders_are_understood(tmp_path: Path, digits: Digits, wrapper: str, validation: str) -> None:
    members = {
        **folders_of(digits[:80], f"{wrapper}train/"),
        **folders_of(digits[80:100], f"{wrapper}{validation}/"),
        **folders_of(digits[100:], f"{wrapper}test/"),
        f"{wrapper}README.md": b"about",
    }
    splits, _, _ = read(write_zip(tmp_path / "digits.zip", members))
    assert {name: len(split) for name, split in splits.items()} == {"train": 80, "validation": 20, "test": 20}
    assert pairs(splits["test"]) == {(pixels.tobytes(), label) for pixels, label in digits[100:]}


def test_validation_is_drawn_from_train_where_it_is_missing(tmp_path: Path, digits: Digits) -> None:
    members = {**folders_of(digits[:100], "train/"), **folders_of(digits[100:], "test/")}
    splits, _, _ = read(write_zip(tmp_path / "digits.zip", members))
    assert pairs(splits["train"]) | pairs(splits["validation"]) == {
        (pixels.tobytes(), label) for pixels, label in digits[:100]
    }
    assert len(splits["validation"]) == 10
    assert len(splits["test"]) == 20


def test_the_same_zip_is_divided_the_same_way_each_time(tmp_path: Path, digits: Digits) -> None:
    path = write_zip(tmp_path / "digits.zip", folders_of(digits))
    assert [pairs(split) for split in read(path)[0].values()] == [
        pairs(split) for split in read(path)[0].values()
    ]


def test_a_class_may_be_called_train_or_test(tmp_path: Path) -> None:
    members = {f"{name}/{i}.png": GREY for name in ("train", "car", "test") for i in range(3)}
    assert read(write_zip(tmp_path / "a.zip", members))[1] == ("car", "test", "train")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "1"], ("1", "9", "10")),
        (["b", "10", "9"], ("10", "9", "b")),
        (["zebra", "ant"], ("ant", "zebra")),
        (["katze", "äffchen"], ("katze", "äffchen")),
        (["²", "1"], ("1", "²")),
    ],
)
def test_classes_are_in_order(tmp_path: Path, names: list[str], expected: tuple[str, ...]) -> None:
    members = {f"{name}/{i}.png": GREY for name in names for i in range(3)}
    assert read(write_zip(tmp_path / "a.zip", members))[1] == expected


def test_files_that_programs_leave_behind_are_ignored(tmp_path: Path) -> None:
    members = {f"{name}/{i}.png": GREY for name in "ab" for i in range(3)}
    rubbish = dict.fromkeys(
        ("__MACOSX/a/._1.png", "a/.DS_Store", "b/Thumbs.db", ".hidden/1.png", "notes.txt"), b"x"
    )
    splits, classes, _ = read(write_zip(tmp_path / "a.zip", members | rubbish))
    assert classes == ("a", "b")
    assert sum(map(len, splits.values())) == 6


def test_any_image_in_colour_makes_all_colour(tmp_path: Path) -> None:
    members = {f"{name}/{i}.png": GREY for name in "ab" for i in range(3)}
    grey = read(write_zip(tmp_path / "grey.zip", members))[0]
    assert grey["train"].images.shape[1:] == (8, 8, 1)
    members["a/red.png"] = encode(np.full((8, 8, 3), (255, 0, 0), np.uint8))
    colour = read(write_zip(tmp_path / "colour.zip", members))[0]
    everything = np.concatenate([split.images for split in colour.values()])
    assert everything.shape == (7, 8, 8, 3)
    assert sorted(np.unique(everything.reshape(7, -1, 3), axis=1).max(axis=1).tolist())[-1] == [255, 0, 0]


def test_unlabelled_images_stay_unlabelled_and_undivided(tmp_path: Path, digits: Digits) -> None:
    members = {f"unlabelled/{i}.png": encode(pixels) for i, (pixels, _) in enumerate(digits[:50])}
    members |= folders_of(digits[50:80], "validation/") | folders_of(digits[80:], "test/")
    splits, classes, _ = read(write_zip(tmp_path / "a.zip", members))
    assert splits["train"].labels is None
    assert {name: len(split) for name, split in splits.items()} == {"train": 50, "validation": 30, "test": 40}
    assert classes == tuple("0123456789")


def test_a_class_without_training_images_is_known_from_the_other_splits(
    tmp_path: Path, digits: Digits
) -> None:
    without_3 = [(pixels, label) for pixels, label in digits[:80] if label != 3]
    members = {**folders_of(without_3, "train/"), **folders_of(digits[80:], "test/")}
    splits, classes, _ = read(write_zip(tmp_path / "a.zip", members))
    assert classes == tuple("0123456789")
    assert 3 not in splits["train"].labels  # type: ignore[operator]


# --- sizes -------------------------------------------------------------------------------------------------


def test_images_of_two_sizes_are_refused_by_name_unless_a_size_is_asked_for(tmp_path: Path) -> None:
    members = {f"{name}/{i}.png": GREY for name in "ab" for i in range(3)}
    members["b/wide.png"] = encode(np.zeros((8, 9), np.uint8))
    path = write_zip(tmp_path / "a.zip", members)
    with pytest.raises(InvalidDataset, match=r"b/wide\.png is 9 x 8 pixels, but a/0\.png is 8 x 8") as caught:
        read(path)
    assert "size" in caught.value.remedy
    assert read(path, size=(4, 5))[0]["train"].images.shape[1:] == (4, 5, 1)


def test_images_wider_than_any_model_takes_need_a_size(tmp_path: Path) -> None:
    wide = encode(np.zeros((1, 5_000), np.uint8))
    path = write_zip(tmp_path / "a.zip", {f"{name}/{i}.png": wide for name in "ab" for i in range(3)})
    with pytest.raises(InvalidDataset, match="4096"):
        read(path)
    assert read(path, size=(1, 50))[0]["train"].images.shape[1:] == (1, 50, 1)


@pytest.mark.parametrize("size", [(0, 5), (5, 4097), (-1, 1)])
def test_sizes_out_of_range_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(InvalidDataset, match="1 to 4096"):
        read(write_zip(tmp_path / "a.zip", {"a/1.png": GREY, "b/1.png": GREY}), size=size)


# --- no dataset --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "no images"),
        ({"readme.txt": b"x"}, "no images"),
        ({"a/1.png": GREY, "a/2.png": GREY}, "one class only"),
        ({"train/a/1.png": GREY, "test/a/1.png": GREY}, "one class only"),
        ({"1.png": GREY, "2.png": GREY}, "no class folder"),
        ({"a/1.png": GREY, "b/deep/1.png": GREY}, "b/deep/1.png lies in a folder inside a class folder"),
        ({"train/a/1.png": GREY, "extra/b/1.png": GREY}, "extra/b/1.png lies in a folder inside"),
        ({"train/1.png": GREY, "test/1.png": GREY}, "no class folder"),
        ({"test/a/1.png": GREY, "test/b/1.png": GREY}, "only test images|inside a class folder"),
        (
            {"unlabelled/1.png": GREY, "train/a/1.png": GREY, "train/b/1.png": GREY},
            "both train/ and unlabelled/",
        ),
    ],
)
def test_folders_that_make_no_sense_are_refused(
    tmp_path: Path, members: dict[str, bytes], words: str
) -> None:
    with pytest.raises(InvalidDataset, match=words):
        read(write_zip(tmp_path / "a.zip", members))


@pytest.mark.parametrize("data", [b"", b"text", GREY[:-26], GREY[:30]])
def test_a_broken_image_is_named(tmp_path: Path, data: bytes) -> None:
    members = {"set/a/1.png": GREY, "set/b/1.png": GREY, "set/b/broken.png": data}
    with pytest.raises(InvalidImage) as caught:
        read(write_zip(tmp_path / "a.zip", members))
    assert caught.value.file == "set/b/broken.png"


def test_labels_can_be_asked_for(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"unlabelled/1.png": GREY})
    assert read(path)[1] == ()
    with pytest.raises(LabelsMissing):
        read(path, labels_required=True)


# --- hostile ones ------------------------------------------------------------------------------------------

HONEST = {f"{name}/{i}.png": GREY for name in "ab" for i in range(3)}


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../a/1.png", "a/../../1.png", "a/..", "C:/a/1.png", "..\\a\\1.png", "a//1.png",
     "a/\n.png", "a/\x1b[2J.png", "a/./1.png", "a/" + "x" * 600],
)  # fmt: skip
def test_unsafe_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidDataset, match="unsafe name") as caught:
        read(write_zip(tmp_path / "a.zip", HONEST | {name: GREY}))
    assert not set(str(caught.value)) & {"\n", "\x1b"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def patched(path: Path, old: bytes, new: bytes) -> Path:
    """Write what no honest program writes: the same length, other bytes."""
    assert len(old) == len(new)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def test_a_zero_byte_in_a_name_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", HONEST | {"a/evil_x": GREY})
    with pytest.raises(InvalidDataset, match="unsafe name"):
        read(patched(path, b"a/evil_x", b"a/evil\0x"))


@pytest.mark.parametrize(
    "kind", [0o120777, 0o010644, 0o020644, 0o140644], ids=["link", "fifo", "device", "socket"]
)
def test_links_and_special_files_are_refused(tmp_path: Path, kind: int) -> None:
    path = write_zip(tmp_path / "a.zip", HONEST)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("a/link.png")
        info.external_attr = kind << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InvalidDataset, match=r"a/link\.png in a\.zip is a link"):
        read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")  # of the module that writes it
@pytest.mark.parametrize("second", ["a/1.png", "a\\1.png", "./a/1.png"])
def test_names_that_come_twice_are_refused(tmp_path: Path, second: str) -> None:
    path = write_zip(tmp_path / "a.zip", [*HONEST.items(), (second, GREY)])
    with pytest.raises(InvalidDataset, match="twice"):
        read(path)


@pytest.mark.parametrize("name", ["a/inner.zip", "a/inner.tar.gz", "a/inner.TGZ", "inner.7z"])
def test_archives_inside_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidDataset, match="archive inside"):
        read(write_zip(tmp_path / "a.zip", HONEST | {name: b"PK\3\4"}))


def test_an_archive_that_calls_itself_an_image_is_no_image(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", HONEST).read_bytes()
    with pytest.raises(InvalidImage):
        read(write_zip(tmp_path / "a.zip", HONEST | {"a/inner.png": inner}))


def test_what_unpacks_to_more_than_a_hundred_times_its_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="100 times"):
        read(write_zip(tmp_path / "a.zip", HONEST | {"a/bomb.png": bytes(1_000_000)}))


def test_the_ratio_is_kept_where_the_directory_lies_about_packed_sizes(tmp_path: Path) -> None:
    """The bomb claims to be packed to 200 KB; what comes out is counted against the archive's real size."""
    path = write_zip(tmp_path / "a.zip", HONEST | {"a/bomb.png": bytes(9_000_000)})
    with zipfile.ZipFile(path) as archive:
        packed = archive.getinfo("a/bomb.png").compress_size
    sizes = struct.pack("<II", packed, 9_000_000)
    data = path.read_bytes()
    place = data.rindex(sizes)
    path.write_bytes(data[:place] + struct.pack("<II", 200_000, 9_000_000) + data[place + 8 :])
    with pytest.raises(InvalidDataset):
        read(path)


def test_a_member_that_is_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", HONEST | {"a/long.png": GREY + b"x" * 5_000})
    size = struct.pack("<I", len(GREY) + 5_000)
    data = path.read_bytes()
    place = data.rindex(size)
    path.write_bytes(data[:place] + struct.pack("<I", len(GREY)) + data[place + 4 :])
    with pytest.raises(InvalidDataset, match="damaged"):
        read(path)


def test_unpacked_bytes_are_counted_over_all_members(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", HONEST)
    read(path, limits=UploadLimits(unpacked_bytes=6 * len(GREY)))
    with pytest.raises(InvalidDataset, match="unpacks to more"):
        read(path, limits=UploadLimits(unpacked_bytes=6 * len(GREY) - 1))


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """A thousand entries in the directory that all point to one packed image."""
    buffer = io.BytesIO()
    noise = encode(np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8))
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/0000.png", noise)
        first = archive.infolist()[0]
        for i in range(1, 1_000):
            copy = zipfile.ZipInfo(f"{'ab'[i % 2]}/{i:04d}.png")
            copy.CRC, copy.file_size, copy.compress_size = first.CRC, first.file_size, first.compress_size
            copy.header_offset = first.header_offset
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    with pytest.raises(InvalidDataset):
        read(tmp_path / "a.zip")


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", HONEST)
    read(path, limits=UploadLimits(members=6))
    with pytest.raises(InvalidDataset, match="more than 5 members"):
        read(path, limits=UploadLimits(members=5))


def test_images_over_the_limits_are_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", HONEST)
    for limits in (ImageLimits(size_bytes=len(GREY) - 1), ImageLimits(pixels=63)):
        with pytest.raises(ImageTooLarge, match=r"^a/0\.png: "):
            read(path, limits=UploadLimits(images=limits))


def test_decoded_pixels_are_counted_over_all_images(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", HONEST)
    read(path, limits=UploadLimits(decoded_bytes=6 * 64))
    with pytest.raises(InvalidDataset, match="383 bytes when decoded"):
        read(path, limits=UploadLimits(decoded_bytes=6 * 64 - 1))


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", HONEST)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InvalidDataset, match="encrypted"):
        read(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_than_deflate_are_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a/1.png", GREY)
    with pytest.raises(InvalidDataset, match="another method"):
        read(tmp_path / "a.zip")


def test_damaged_archives_are_refused_and_nothing_else(tmp_path: Path) -> None:
    """300 mutants and 100 truncations: our errors or a good dataset, with a fixed seed."""
    whole = write_zip(tmp_path / "a.zip", HONEST).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(400):
        data = bytearray(whole)
        if i % 4:
            for place in rng.integers(0, len(data), rng.integers(1, 6)):
                data[place] = rng.integers(256)
        else:
            del data[rng.integers(0, len(data)) :]
        (tmp_path / "a.zip").write_bytes(data)
        try:
            read(tmp_path / "a.zip")
        except (InvalidDataset, InvalidImage, ImageTooLarge):
            refused += 1
    assert refused > 200
