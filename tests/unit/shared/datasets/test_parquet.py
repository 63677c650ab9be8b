"""Parquet as the Hugging Face hub lays images out."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.artefacts.datasets import Split
from shared.datasets.images import ImageLimits
from shared.datasets.limits import UploadLimits
from shared.datasets.uploads import read_upload
from shared.errors import ImageTooLarge, InvalidDataset, InvalidImage
from tests.support.uploads import Digits, encode, write_parquet

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def read(*paths: Path, **options: Any) -> tuple[dict[str, Split], tuple[str, ...], str]:
    return read_upload(list(paths), [path.name for path in paths], **options)


def pairs(*splits: Split) -> set[tuple[bytes, int]]:
    return {
        (image.tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)  # type: ignore[arg-type]
    }


def test_files_of_the_hub_keep_pixels_labels_and_the_order_of_names(tmp_path: Path, digits: Digits) -> None:
    train = write_parquet(tmp_path / "train-00000-of-00001.parquet", digits[:100], names=WORDS)
    test = write_parquet(tmp_path / "test-00000-of-00001.parquet", digits[100:], names=WORDS)
    splits, classes, source = read(train, test)
    assert classes == tuple(WORDS)  # by alphabet, "eight" would come first
    assert source.startswith("parquet upload: train-00000")
    assert pairs(splits["train"], splits["validation"]) == {
        (image.tobytes(), label) for image, label in digits[:100]
    }
    assert pairs(splits["test"]) == {(image.tobytes(), label) for image, label in digits[100:]}


def test_shards_of_a_split_are_put_together_in_order(tmp_path: Path, digits: Digits) -> None:
    parts = [
        write_parquet(tmp_path / f"{split}-{i}.parquet", digits[i * 30 : i * 30 + 30], names=WORDS)
        for i, split in enumerate(("train", "train", "validation", "test"))
    ]
    splits, _, _ = read(*parts)
    assert splits["train"].images.tobytes() == b"".join(image.tobytes() for image, _ in digits[:60])
    assert {name: len(split) for name, split in splits.items()} == {"train": 60, "validation": 30, "test": 30}


@pytest.mark.parametrize("plain", [False, True])
def test_numbers_without_names_are_their_own_names(tmp_path: Path, digits: Digits, plain: bool) -> None:
    _, classes, _ = read(write_parquet(tmp_path / "a.parquet", digits, plain=plain))
    assert classes == tuple("0123456789")


def table_of(digits: Digits, **columns: Any) -> pa.Table:
    return pa.table({"image": pa.array([encode(image) for image, _ in digits], pa.binary()), **columns})


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_strings_are_class_names(tmp_path: Path, digits: Digits, kind: pa.DataType) -> None:
    label = pa.array([WORDS[label] for _, label in digits], pa.string()).cast(kind)
    pq.write_table(table_of(digits, label=label), tmp_path / "a.parquet")
    splits, classes, _ = read(tmp_path / "a.parquet")
    assert classes == tuple(sorted(WORDS))
    expected = {(image.tobytes(), classes.index(WORDS[label])) for image, label in digits}
    assert pairs(*splits.values()) == expected


def test_minus_one_means_unlabelled(tmp_path: Path, digits: Digits) -> None:
    hidden = [(image, -1) for image, _ in digits[:50]]
    train = write_parquet(tmp_path / "train.parquet", hidden, names=WORDS)
    test = write_parquet(tmp_path / "test.parquet", digits[50:], names=WORDS)
    splits, classes, _ = read(train, test)
    assert splits["train"].labels is None
    assert classes == tuple(WORDS)
    with pytest.raises(InvalidDataset, match="50 of 100 train images have no label"):
        read(write_parquet(tmp_path / "mixed.parquet", hidden + digits[:50], names=WORDS))


def test_without_a_column_of_labels_nothing_is_labelled(tmp_path: Path, digits: Digits) -> None:
    pq.write_table(table_of(digits), tmp_path / "a.parquet")
    splits, classes, _ = read(tmp_path / "a.parquet")
    assert splits["train"].labels is None
    assert classes == ()


def test_a_broken_image_is_named_by_file_and_row(tmp_path: Path, digits: Digits) -> None:
    data = [encode(image) for image, _ in digits]
    data[70] = data[70][:60]
    table = pa.table({"image": pa.array(data, pa.binary()), "label": [label for _, label in digits]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InvalidImage) as caught:
        read(tmp_path / "a.parquet")
    assert caught.value.file == "a.parquet, row 70"


def test_images_that_are_only_paths_are_refused(tmp_path: Path) -> None:
    """The hub's metadata may point to files on the writer's disk; nothing on ours is opened for it."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": None, "path": "/etc/passwd"}] * 4, kind)
    pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(InvalidDataset, match="row 0: the image has no bytes"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("label", [10, -2])
def test_labels_out_of_range_are_refused(tmp_path: Path, digits: Digits, label: int) -> None:
    path = write_parquet(tmp_path / "a.parquet", [*digits[:5], (digits[5][0], label)], names=WORDS)
    with pytest.raises(InvalidDataset, match=f"row 5: label {label}"):
        read(path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": [1, 2], "label": [0, 1]}, "one column of images"),
        ({"a": [b"", b""], "b": [b"", b""], "label": [0, 1]}, "columns with images: a, b"),
        ({"image": [b"", b""], "labels": [0, 1], "class": [0, 1]}, "^$"),
    ],
)
def test_columns_that_could_mean_anything_are_refused(
    tmp_path: Path, columns: dict[str, list[Any]], words: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    if words == "^$":  # 'labels' comes before 'class': this one is clear
        with pytest.raises(InvalidImage):
            read(tmp_path / "a.parquet")
    else:
        with pytest.raises(InvalidDataset, match=words):
            read(tmp_path / "a.parquet")


def test_two_columns_of_stated_classes_are_refused_unless_one_is_called_label(
    tmp_path: Path, digits: Digits
) -> None:
    import json

    def write(names: tuple[str, str]) -> Path:
        features = {name: {"_type": "ClassLabel", "names": WORDS} for name in names}
        metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        labels = [label for _, label in digits]
        table = table_of(digits, **dict.fromkeys(names, labels)).replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    assert read(write(("label", "coarse")))[1] == tuple(WORDS)
    with pytest.raises(InvalidDataset, match="several columns of labels"):
        read(write(("fine", "coarse")))


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"info": {}}', b'{"info": {"features": []}}', b"\xff", b"[" * 100_000]
)
def test_metadata_that_cannot_be_read_is_refused(tmp_path: Path, digits: Digits, text: bytes) -> None:
    table = table_of(digits, label=[label for _, label in digits]).replace_schema_metadata(
        {b"huggingface": text}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InvalidDataset, match="metadata"):
        read(tmp_path / "a.parquet")


def test_files_that_state_different_names_are_refused(tmp_path: Path, digits: Digits) -> None:
    train = write_parquet(tmp_path / "train.parquet", digits, names=WORDS)
    test = write_parquet(tmp_path / "test.parquet", digits, names=WORDS[::-1])
    with pytest.raises(InvalidDataset, match="different class names"):
        read(train, test)


def test_limits_hold_for_rows_bytes_and_images(tmp_path: Path, digits: Digits) -> None:
    path = write_parquet(tmp_path / "a.parquet", digits, names=WORDS)
    with pytest.raises(InvalidDataset, match="120 rows, 119 are allowed"):
        read(path, limits=UploadLimits(members=119))
    with pytest.raises(InvalidDataset, match="1,000 bytes"):
        read(path, limits=UploadLimits(unpacked_bytes=1_000))
    with pytest.raises(ImageTooLarge, match="row 0"):
        read(path, limits=UploadLimits(images=ImageLimits(pixels=100)))


def test_repeated_images_are_counted_as_often_as_they_unpack(tmp_path: Path) -> None:
    """Dictionary encoding stores one image for 5,000 rows; what counts is what comes out."""
    noise = encode(np.random.default_rng(0).integers(0, 256, (100, 100), dtype=np.uint8))
    table = pa.table({"image": pa.array([noise] * 5_000, pa.binary()), "label": [0, 1] * 2_500})
    pq.write_table(table, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(InvalidDataset, match="1,000,000 bytes"):
        read(tmp_path / "a.parquet", limits=UploadLimits(unpacked_bytes=1_000_000))


def test_damaged_files_are_refused_and_nothing_else(tmp_path: Path, digits: Digits) -> None:
    """200 mutants and 50 truncations, with a fixed seed."""
    whole = write_parquet(tmp_path / "a.parquet", digits[:20], names=WORDS).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(250):
        data = bytearray(whole)
        if i % 5:
            for place in rng.integers(4, len(data), rng.integers(1, 6)):
                data[place] = rng.integers(256)
        else:
            del data[rng.integers(4, len(data)) :]
        (tmp_path / "a.parquet").write_bytes(data)
        try:
            read(tmp_path / "a.parquet")
        except (InvalidDataset, InvalidImage, ImageTooLarge):
            refused += 1
    assert refused > 100
