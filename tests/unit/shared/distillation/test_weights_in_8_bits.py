import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from shared.distillation.weights_in_8_bits import blocked, in_8_bit_weights


def net(inputs=45, hidden=24, *, bias=True) -> onnx.ModelProto:
    """Return `x` → Gemm → Relu → Gemm → `logits`; 45 inputs do not fill their second block."""
    random = np.random.default_rng(0)
    tensors = {
        "one.weight": random.normal(size=(hidden, inputs)),
        "one.bias": random.normal(size=hidden),
        "two.weight": random.normal(size=(3, hidden)),
    }
    given = ["x", "one.weight", *(["one.bias"] if bias else [])]
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Gemm", given, ["sum"], name="one", transB=1),
                helper.make_node("Relu", ["sum"], ["raised"], name="relu"),
                helper.make_node("Gemm", ["raised", "two.weight"], ["logits"], name="two", transB=1),
            ],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 3])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )


def answers(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"x": x})[0]


def test_blocks_hold_each_weight_to_half_a_step():
    weights = np.random.default_rng(1).normal(size=(5, 70)).astype(np.float32)
    weights[2] = 0
    blocks, scales = blocked(weights)
    assert (blocks.shape, blocks.dtype, scales.shape) == ((5, 3, 32), np.uint8, (15,))
    steps = scales.reshape(5, 3, 1)
    again = ((blocks.astype(np.float32) - 128) * steps).reshape(5, 96)
    assert (
        np.abs(again[:, :70] - weights) <= np.repeat(steps, 32, 2).reshape(5, 96)[:, :70] / 2 + 1e-7
    ).all()
    assert (blocks.reshape(5, 96)[:, 70:] == 128).all()


@pytest.mark.parametrize("bias", [True, False])
def test_the_graph_answers_nearly_as_float32_and_alike_in_any_batch(bias):
    model = net(bias=bias)
    x = np.random.default_rng(2).normal(size=(40, 45)).astype(np.float32)
    expected = answers(model, x)
    made = in_8_bit_weights(model, keep=["two"])
    found = answers(made, x)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    alone = np.concatenate([answers(made, x[row : row + 1]) for row in range(5)])
    np.testing.assert_allclose(found[:5], alone, atol=1e-5)


def test_the_layer_that_is_to_be_kept_is_and_the_given_graph_stays_as_it_was():
    model = net()
    before = model.SerializeToString(deterministic=True)
    made = in_8_bit_weights(model, keep=["two"])
    assert model.SerializeToString(deterministic=True) == before
    assert [node.op_type for node in made.graph.node] == ["MatMulNBits", "Add", "Relu", "Gemm"]
    assert {tensor.name for tensor in made.graph.initializer} == {
        "one.weight_blocks", "one.weight_scales", "one.bias", "two.weight",
    }  # fmt: skip


def test_a_graph_with_no_layer_to_change_is_told_apart():
    with pytest.raises(ValueError, match="no fully connected layer"):
        in_8_bit_weights(net(), keep=["one", "two"])
