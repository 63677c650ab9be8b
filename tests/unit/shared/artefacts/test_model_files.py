import json
import pickle
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save

from shared.artefacts.model_files import (
    check_model_file,
    check_model_folder,
    checked_name,
    taken_names,
)
from shared.errors import InvalidModelFiles, PickleRefused

TENSORS = {
    "weight": np.ones((3, 4), np.float32),
    "none": np.ones((0, 4), np.float16),
    "one": np.ones((), np.int64),
}


def graph() -> bytes:
    """An ONNX model that gives back what it is given."""
    image = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    node = helper.make_node("Identity", ["x"], ["y"])
    made: bytes = helper.make_model(helper.make_graph([node], "g", image[:1], image[1:])).SerializeToString()
    return made


def with_header(header: object, data: bytes = b"") -> bytes:
    """A safetensors file of any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_whole_files_pass(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(save(TENSORS, {"format": "pt"}))
    (tmp_path / "model.onnx").write_bytes(graph())
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "labels.txt").write_text("née\nfish\n")
    (tmp_path / "README.md").write_bytes(b"\x80\x04 of no interest")
    for kind in ("safetensors", "transformers", "timm", "onnx"):
        check_model_folder(tmp_path, kind)


def test_numbers_that_numpy_does_not_know_pass(tmp_path: Path):
    """Nets are often stored as bfloat16."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_header({"w": tensor(0, 4, [2], "BF16")}, b"\0" * 4))
    check_model_file(path)


def test_a_header_whose_length_begins_as_a_pickle_does_is_no_pickle(tmp_path: Path):
    """640 is 0x0280: the file begins with the two bytes of pickle protocol 2."""
    header = json.dumps({"w": tensor(0, 4, [1])}).encode().ljust(640)
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_header(header, b"\0" * 4))
    assert path.read_bytes()[:2] == b"\x80\x02"
    check_model_file(path)


DAMAGED = {
    "empty": b"",
    "words": b"these are words, not tensors",
    "a header longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "a header longer than allowed": struct.pack("<Q", 2**40) + b"{}" * 100,
    "no JSON": with_header(b"{not json"),
    "a list": with_header([1, 2]),
    "no tensors": with_header({"__metadata__": {}}),
    "a tensor twice": with_header(b'{"w":1,"w":2}'),
    "cut short": save(TENSORS)[:-1],
    "bytes behind the last tensor": save(TENSORS) + pickle.dumps("hidden"),
    "two tensors on one place": with_header({"a": tensor(0, 4, [1]), "b": tensor(0, 4, [1])}, b"\0" * 4),
    "a hole": with_header({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, b"\0" * 12),
    "another length than the shape": with_header({"a": tensor(0, 8, [1])}, b"\0" * 8),
    "a negative side": with_header({"a": tensor(0, 4, [-1])}, b"\0" * 4),
    "a side that is true": with_header(
        b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', b"\0" * 4
    ),
    "sides whose product is work": with_header({"a": tensor(0, 4, [10**400] * 50)}, b"\0" * 4),
    "an unknown kind of number": with_header({"a": tensor(0, 4, [1], "PICKLE")}, b"\0" * 4),
    "a description that is none": with_header({"a": "tensor"}),
    "braces without end": with_header(b"[" * 100_000),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_safetensors_file_whose_header_does_not_describe_every_byte_is_refused(tmp_path: Path, case: str):
    path = tmp_path / "model.safetensors"
    path.write_bytes(DAMAGED[case])
    with pytest.raises(InvalidModelFiles, match=r"model\.safetensors"):
        check_model_file(path)


@pytest.mark.parametrize("data", [graph()[:-1], graph() + b"\0", b"", b"\x08", b"\x00" * 40, b"\xff" * 40])
def test_an_onnx_file_that_is_no_single_message_is_refused(tmp_path: Path, data: bytes):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(InvalidModelFiles, match="ONNX"):
        check_model_file(path)


def test_another_message_than_a_model_is_refused(tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.TensorProto(dims=[1], float_data=[1.0]).SerializeToString())
    with pytest.raises(InvalidModelFiles, match="ONNX"):
        check_model_file(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [("config.json", b"[]"), ("config.json", b"\xff"), ("classes.json", b"{"), ("labels.txt", b"\xff\xfe")],
)
def test_texts_that_are_none_are_refused(tmp_path: Path, name: str, data: bytes):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidModelFiles, match=name):
        check_model_file(tmp_path / name)


PICKLES = {
    **{f"protocol {protocol}": pickle.dumps({"w": [1.0] * 9}, protocol) for protocol in (2, 3, 4, 5)},
    "torch's zip": b"PK\x03\x04" + b"\0" * 40,
}


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx", "config.json"])
@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_is_refused_whatever_its_name_with_the_way_to_convert_it(
    tmp_path: Path, name: str, case: str
):
    (tmp_path / name).write_bytes(PICKLES[case])
    with pytest.raises(PickleRefused) as refused:
        check_model_file(tmp_path / name)
    assert "safetensors.torch.save_file" in refused.value.remedy


@pytest.mark.parametrize(
    "name", ["model.pt", "pytorch_model.bin", "a/b/BEST.PTH", "x.ckpt", "x.pkl", "x.npz"]
)
def test_names_of_pickles_are_refused(name: str):
    with pytest.raises(PickleRefused):
        checked_name(name, "transformers")


def test_a_folder_of_pickles_alone_says_so(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(PickleRefused, match=r"pytorch_model\.bin"):
        check_model_folder(tmp_path, "transformers")


def test_only_the_last_part_of_a_name_is_kept():
    assert checked_name("../../etc/model.onnx", "onnx") == "model.onnx"
    assert checked_name("C:\\models\\model.safetensors", "timm") == "model.safetensors"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.onnx", "timm"), ("passwd", "onnx"), ("", "onnx"), ("..", "onnx"), ("vit.py", "transformers"),
        ("model.safetensors\n", "timm"), ("model-1-of-2.safetensors", "transformers"),
    ],
)  # fmt: skip
def test_other_names_are_refused_with_those_that_are_taken(name: str, kind: str):
    with pytest.raises(InvalidModelFiles) as refused:
        checked_name(name, kind)
    assert "labels.txt" in refused.value.remedy


def test_of_a_hub_folder_only_what_is_needed_is_taken():
    folder = [
        "README.md",
        "training_args.bin",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert taken_names(folder, "transformers") == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip


def test_shards_are_all_there_or_refused(tmp_path: Path):
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    for shard in shards:
        (tmp_path / shard).write_bytes(save(TENSORS))
    with pytest.raises(InvalidModelFiles, match="index"):
        check_model_folder(tmp_path, "transformers")
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    check_model_folder(tmp_path, "transformers")
    (tmp_path / shards[1]).unlink()
    with pytest.raises(InvalidModelFiles, match="00002-of-00002"):
        check_model_folder(tmp_path, "transformers")


@pytest.mark.parametrize(("kind", "needed"), [("transformers", "config.json"), ("timm", "model.safetensors")])
def test_what_a_kind_needs_is_asked_for(tmp_path: Path, kind: str, needed: str):
    for name in {"config.json", "model.safetensors"} - {needed}:
        (tmp_path / name).write_bytes(b"{}" if name == "config.json" else save(TENSORS))
    with pytest.raises(InvalidModelFiles, match=needed):
        check_model_folder(tmp_path, kind)
