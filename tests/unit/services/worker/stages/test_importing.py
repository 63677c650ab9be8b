"""What the files beside a model are taken to say: classes, image size, how pixels become numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.worker.stages.importing.said import (
    Said,
    class_names,
    need_count,
    preprocessing_of,
    preprocessor,
)
from shared.contracts.images import ImageInput
from shared.contracts.teacher_sources import OnnxSource
from shared.errors import InputMismatch, InvalidModelFiles
from tests.support.jobs import dataset_manifest

RGB = ImageInput(height=32, width=32, channels=3)
GREY = ImageInput(height=28, width=28, channels=1)
SOURCE = OnnxSource()


def written(folder: Path, **config: Any) -> Said:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return preprocessor(folder)


# --- classes -----------------------------------------------------------------------------------------------


def test_classes_come_from_the_order_else_from_a_list_else_from_a_file_of_lines_else_from_a_configuration(
    tmp_path: Path,
):
    of_config = {"1": "b4", "0": "a4"}
    assert class_names(SOURCE, tmp_path, of_config) == ("a4", "b4")
    (tmp_path / "labels.txt").write_text("a3\nb3\n")
    assert class_names(SOURCE, tmp_path, of_config) == ("a3", "b3")
    (tmp_path / "classes.json").write_text('["a2", "b2"]')
    assert class_names(SOURCE, tmp_path, of_config) == ("a2", "b2")
    assert class_names(SOURCE.model_copy(update={"classes": ("a1", "b1")}), tmp_path) == ("a1", "b1")


def test_classes_by_number_are_put_into_order(tmp_path: Path):
    (tmp_path / "classes.json").write_text('{"1": "dog", "0": "cat"}')
    assert class_names(SOURCE, tmp_path) == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('["cat", "cat"]', "different class names"),
        ('["cat"]', "names 1 classes"),
        ('["cat", ""]', "without a name"),
        ('{"0": "cat", "2": "dog"}', "are not 0, 1"),
        ("[", "it is no JSON"),
        ("7", "no list of different"),
    ],
)
def test_a_file_that_does_not_name_classes_is_refused(tmp_path: Path, content: str, words: str):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InvalidModelFiles, match=words):
        class_names(SOURCE, tmp_path)


def test_a_configuration_that_lists_its_classes_without_numbers_is_refused(tmp_path: Path):
    listed: Any = ["cat", "dog"]
    with pytest.raises(InvalidModelFiles, match="are not 0, 1"):
        class_names(SOURCE, tmp_path, listed)


def test_the_mark_that_windows_puts_before_a_text_is_no_part_of_a_name(tmp_path: Path):
    (tmp_path / "labels.txt").write_bytes("\ufeffcat\r\ndog\r\n".encode())
    assert class_names(SOURCE, tmp_path) == ("cat", "dog")


def test_what_nothing_names_is_refused_with_how_to_say_it(tmp_path: Path):
    with pytest.raises(InvalidModelFiles, match="nothing says") as refused:
        class_names(SOURCE, tmp_path)
    assert "labels.txt" in refused.value.remedy


def test_an_unknown_number_of_answers_is_no_other_number():
    need_count(("a", "b"), None, "it")
    with pytest.raises(InvalidModelFiles, match="2 classes are named, and it answers 3"):
        need_count(("a", "b"), 3, "it")


# --- pixels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [(224, (224, 224)), ({"height": 20, "width": 30}, (20, 30)), ({"shortest_edge": 96}, (96, 96))],
)
def test_sizes_are_read_in_each_of_the_librarys_forms(tmp_path: Path, size: Any, expected: tuple[int, int]):
    said = written(tmp_path, size=size)
    assert (said.height, said.width) == expected
    assert said.findings == ()


def test_a_cut_of_the_middle_is_told_where_it_is_another_size_than_the_resize(tmp_path: Path):
    crop = {"height": 224, "width": 224}
    same = written(tmp_path, size={"shortest_edge": 224}, do_center_crop=True, crop_size=crop)
    assert same.findings == ()
    other = written(tmp_path, size={"shortest_edge": 256}, do_center_crop=True, crop_size=crop)
    (finding,) = other.findings
    assert finding.outcome == "warning"
    assert "resizes to 256 x 256 and then cuts the middle 224 x 224 out" in finding.detail
    assert (other.height, other.width) == (224, 224)


@pytest.mark.parametrize(
    ("number", "resample"), [(2, "bilinear"), (3, "bicubic"), (1, "bicubic"), (0, "bicubic")]
)
def test_pillows_filters_are_known_and_others_are_told(tmp_path: Path, number: int, resample: str):
    said = written(tmp_path, size=32, resample=number)
    assert said.resample == resample
    assert bool(said.findings) == (number not in (2, 3))


def test_mean_and_std_are_brought_to_pixels_from_0_to_1(tmp_path: Path):
    """(pixel * factor - mean) / std, whatever the factor."""
    usual = written(tmp_path, image_mean=[0.5], image_std=[0.25], rescale_factor=1 / 255)
    assert (usual.mean, usual.std) == (pytest.approx((0.5,)), pytest.approx((0.25,)))
    to_minus_1 = written(tmp_path, image_mean=[1.0], image_std=[1.0], rescale_factor=1 / 127.5)
    assert (to_minus_1.mean, to_minus_1.std) == (pytest.approx((0.5,)), pytest.approx((0.5,)))
    whole = written(tmp_path, image_mean=[127.5], image_std=[51.0], do_rescale=False)
    assert (whole.mean, whole.std) == (pytest.approx((0.5,)), pytest.approx((0.2,)))
    plain = written(tmp_path, image_mean=[0.5], image_std=[0.25], do_normalize=False)
    assert (plain.mean, plain.std) == (pytest.approx((0.0,)), pytest.approx((1.0,)))


@pytest.mark.parametrize("config", [{"size": {"depth": 3}}, {"size": "big"}, {"image_mean": ["x"]}])
def test_a_preprocessor_that_cannot_be_read_is_refused(tmp_path: Path, config: dict[str, Any]):
    with pytest.raises(InvalidModelFiles, match="how images are resized"):
        written(tmp_path, **config)


def test_the_order_comes_before_the_files_and_one_number_stands_for_all_channels():
    said = Said(mean=(0.1, 0.2, 0.3), std=(0.4,), resample="bicubic")
    source = SOURCE.model_copy(update={"mean": (0.5,), "resample": "bilinear"})
    made, findings = preprocessing_of(source, said, RGB, None, normalised=True)
    assert (made.mean, made.std, made.resample) == ((0.5,) * 3, (0.4,) * 3, "bilinear")
    assert (made.input, made.net, findings) == (RGB, None, ())


def test_images_of_the_dataset_are_what_it_is_asked_about():
    made, _ = preprocessing_of(SOURCE, Said(), RGB, dataset_manifest(), normalised=False)
    assert (made.input, made.net) == (GREY, RGB)


def test_colours_cannot_become_grey_and_numbers_must_be_one_a_channel():
    colours = dataset_manifest(input=RGB)
    with pytest.raises(InputMismatch, match="the net sees 1 channels, and images of 3"):
        preprocessing_of(SOURCE, Said(), GREY, colours, normalised=True)
    with pytest.raises(InvalidModelFiles, match="a number for each of 3 channels"):
        preprocessing_of(SOURCE, Said(mean=(0.1, 0.2), std=(1.0,)), RGB, None, normalised=True)
