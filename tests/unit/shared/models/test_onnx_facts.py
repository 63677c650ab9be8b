"""What an ONNX file says of itself, and the files that are refused before they can do anything."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shared.contracts.images import ImageInput
from shared.errors import InvalidModelFiles, ModelUnfit
from shared.models.onnx_facts import inspect_onnx, onnx_model_of
from shared.models.onnx_wire import _MESSAGES, read_contents
from shared.models.signature import TensorFacts
from tests.support.onnx_graphs import linear_graph


def test_tensors_operators_and_versions_are_read(tmp_path):
    facts = inspect_onnx(linear_graph(tmp_path / "model.onnx", probabilities=True))
    assert facts.inputs == (TensorFacts("pixels", "float32", (None, 1, 6, 5)),)
    assert facts.outputs == (TensorFacts("scores", "float32", (None, 4)),)
    assert facts.operators == ("Flatten", "Gemm", "Identity", "Softmax", "Sum")
    assert facts.opsets == {"ai.onnx": 20}


@pytest.mark.parametrize(
    ("layout", "datatype", "rows"), [("NCHW", "float32", None), ("NHWC", "uint8", 3), ("NCHW", "float16", 1)]
)
def test_a_graph_tells_how_it_is_asked(tmp_path, layout, datatype, rows):
    size = ImageInput(height=9, width=8, channels=3)
    graph = linear_graph(tmp_path / "model.onnx", size=size, layout=layout, datatype=datatype, rows=rows)
    model, takes, classes = onnx_model_of(inspect_onnx(graph))
    assert (model.input, model.output) == ("pixels", "scores")
    assert (model.layout, model.datatype, model.rows) == (layout, datatype, rows)
    assert (takes.image, classes) == (size, 4)


def test_two_inputs_are_refused_by_name(tmp_path):
    facts = inspect_onnx(linear_graph(tmp_path / "model.onnx", inputs=2))
    with pytest.raises(ModelUnfit, match=r"takes 2: 'pixels' .*'pixels-1'"):
        onnx_model_of(facts)


def test_an_input_without_a_fixed_number_of_channels_is_refused(tmp_path):
    facts = inspect_onnx(linear_graph(tmp_path / "model.onnx", fixed_channels=False))
    with pytest.raises(ModelUnfit, match="no fixed number"):
        onnx_model_of(facts, layout="NCHW")


def test_images_of_a_size_that_we_have_none_of_are_refused(tmp_path):
    size = ImageInput.model_construct(height=5000, width=1, channels=1)
    graph = linear_graph(tmp_path / "model.onnx", size=size)
    _, takes, _ = onnx_model_of(inspect_onnx(graph))
    with pytest.raises(ModelUnfit, match="5000 x 1 x 1: rows and columns may be 1 to 4096"):
        assert takes.image


def test_of_several_outputs_one_has_to_be_named(tmp_path):
    facts = inspect_onnx(linear_graph(tmp_path / "model.onnx", outputs=2))
    with pytest.raises(ModelUnfit, match="2 outputs") as refused:
        onnx_model_of(facts)
    assert "`output`" in refused.value.remedy
    assert onnx_model_of(facts, output="scores-1")[0].output == "scores-1"
    with pytest.raises(ModelUnfit, match="no output 'hidden'"):
        onnx_model_of(facts, output="hidden")


def test_text_is_no_image(tmp_path):
    taken = helper.make_tensor_value_info("words", TensorProto.INT64, ["batch", 12])
    given = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 12])
    graph = helper.make_graph(
        [helper.make_node("Cast", ["words"], ["scores"], to=TensorProto.FLOAT)], "text", [taken], [given]
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
        ).SerializeToString()
    )
    with pytest.raises(ModelUnfit, match=r"'words' \(int64, \? x 12\)"):
        onnx_model_of(inspect_onnx(path))


@pytest.mark.parametrize("domain", ["", "org.example"])
def test_an_operator_that_nobody_knows_is_named(tmp_path, domain):
    graph = linear_graph(tmp_path / "model.onnx", operator="Frobnicate", operator_domain=domain)
    with pytest.raises(InvalidModelFiles, match="Frobnicate") as refused:
        inspect_onnx(graph)
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd"])
def test_tensors_in_other_files_are_refused_and_no_such_file_is_opened(tmp_path, location):
    """Also where the file is there: what it holds would be under no digest."""
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    graph = linear_graph(tmp_path / "model.onnx", external=location)
    with pytest.raises(InvalidModelFiles, match="lie in other files") as refused:
        inspect_onnx(graph)
    assert "onnx.save" in refused.value.remedy


def _hidden(where: str, tensor: onnx.TensorProto) -> onnx.ModelProto:
    """Return a model with the tensor in a place where a quick look would miss it."""
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    graph = helper.make_graph([node], "g", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    if where == "branch":
        branches = {"then_branch": graph, "else_branch": graph}
        model.graph.CopyFrom(
            helper.make_graph([helper.make_node("If", ["x"], ["y"], **branches)], "h", [], [])
        )
    if where == "function":
        function = helper.make_function("d", "F", [], ["c"], [node], [helper.make_opsetid("", 20)])
        model = helper.make_model(
            helper.make_graph([], "g", [], []), opset_imports=model.opset_import, functions=[function]
        )
    if where == "sparse":
        sparse = onnx.SparseTensorProto(values=tensor, dims=[3])
        model.graph.ClearField("node")
        model.graph.sparse_initializer.append(sparse)
    return model


@pytest.mark.parametrize("where", ["constant", "branch", "function", "sparse"])
@pytest.mark.parametrize("by", ["location", "entries"])
def test_tensors_elsewhere_are_found_wherever_the_file_names_them(tmp_path, where, by):
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "t")
    path = tmp_path / "model.onnx"
    path.write_bytes(_hidden(where, tensor).SerializeToString())
    assert not read_contents(path).external
    if by == "location":
        tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.external_data.add().key = "location"
    path.write_bytes(_hidden(where, tensor).SerializeToString())
    assert read_contents(path).external


def test_the_numbers_of_fields_are_those_of_onnx():
    """Every field that holds a message in which a node or a tensor may lie is looked into."""
    reached = {"Model": onnx.ModelProto.DESCRIPTOR}
    names = {"OperatorSetId": "OperatorSet", "TrainingInfo": "Training", "StringStringEntry": "StringString"}
    leaves = {"ValueInfo", "TensorAnnotation", "Type", "StringString", "Segment"}
    leaves |= {"DeviceConfiguration", "NodeDeviceConfiguration"}
    for kind, fields in _MESSAGES.items():
        descriptor = reached[kind]
        for field in descriptor.fields:
            if field.message_type is None:
                continue
            inner = field.message_type.name.removesuffix("Proto")
            inner = names.get(inner, inner)
            reached.setdefault(inner, field.message_type)
            if inner in _MESSAGES and inner != "StringString" and inner != "OperatorSet":
                assert fields.get(field.number) == inner, (kind, field.name)
            elif field.number not in fields:
                assert inner in leaves | {"OperatorSet"}, (kind, field.name)
    assert onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"].number == 13
    assert onnx.TensorProto.DESCRIPTOR.fields_by_name["data_location"].number == 14


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", bytes(64), b"\x08\x0a", b"\xff" * 40])
def test_bytes_that_are_no_onnx_file_are_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidModelFiles):
        inspect_onnx(path)


def test_a_file_cut_short_at_any_place_is_refused(tmp_path):
    whole = linear_graph(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidModelFiles):
            inspect_onnx(path)


def test_neither_torch_nor_onnx_is_needed_to_look_at_a_graph(tmp_path):
    graph = linear_graph(tmp_path / "model.onnx")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from pathlib import Path\n"
        "from shared.models.onnx_facts import inspect_onnx\n"
        f"print(len(inspect_onnx(Path({str(graph)!r})).operators))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "4"
