"""Gradients of inputs by name, and guided backpropagation by the registry's other rules."""

import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from gradcam_multi.errors import InputError, UnsupportedError
from gradcam_multi.plugins import installed

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4)).astype(np.float32)
W = [RNG.normal(0, 5, shape).astype(np.float32) for shape in ((4, 6), (6, 3))]
COTANGENT = RNG.normal(size=(5, 3)).astype(np.float32)
FLOAT32 = {"rtol": 1e-5, "atol": 1e-4}  # two small products; gradients are of order 100


def model(activation, *constants, opset=17, extra=()):
    """X times a matrix, through nodes from `hidden` to `active`, times a matrix."""
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["hidden"]),
        *activation,
        helper.make_node("MatMul", ["active", "w1"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(w, f"w{place}") for place, w in enumerate(W)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]), *extra]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "net", inputs, [output], [*tensors, *constants])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def scalar(name, value):
    return numpy_helper.from_array(np.array(value, np.float32), name)


def node(op, *inputs, **attributes):
    return helper.make_node(op, ["hidden", *inputs], ["active"], **attributes)


def gradient(proto, names=("x",), inputs=X, **options):
    opened = installed().open(proto, "onnx")
    with opened.trace(inputs, list(names), **options) as trace:
        return trace.vjp({"y": COTANGENT})


def by_hand(low=0.0, high=np.inf, positive=True):
    """In float64."""
    hidden = X.astype(np.float64) @ W[0]
    g = COTANGENT.astype(np.float64) @ W[1].T
    g = np.where((hidden > low) & (hidden < high), np.maximum(g, 0) if positive else g, 0)
    assert (hidden > 6).any()
    return g @ W[0].T


@pytest.mark.parametrize("opset", [7, 17])
def test_relu_hands_positive_gradients_back(opset):
    proto = model([node("Relu")], opset=opset)
    before = proto.SerializeToString()
    np.testing.assert_allclose(gradient(proto, relu="guided")[0], by_hand(), **FLOAT32)
    np.testing.assert_allclose(gradient(proto)[0], by_hand(positive=False), **FLOAT32)
    assert proto.SerializeToString() == before


def test_relu6_as_exporters_write_it():
    expected = by_hand(high=6)
    new = model([node("Clip", "low", "high")], scalar("low", 0), scalar("high", 6))
    old = model([node("Clip", min=0.0, max=6.0)], opset=10)
    for proto in (new, old):
        np.testing.assert_allclose(gradient(proto, relu="guided")[0], expected, **FLOAT32)


def test_a_relu_fused_to_another_operator():
    fused = helper.make_node(
        "FusedGemm", ["x", "w0"], ["active"], domain="com.microsoft", activation="Relu"
    )
    proto = model([fused])
    proto.graph.node.remove(proto.graph.node[0])
    np.testing.assert_allclose(gradient(proto, relu="guided")[0], by_hand(), **FLOAT32)


@pytest.mark.parametrize(
    ("activation", "constants"),
    [
        (node("LeakyRelu"), ()),
        (node("Clip", "low"), (scalar("low", 0),)),
        (node("Clip", "low", "high"), (scalar("low", 0), scalar("high", 1))),
        (node("HardSwish"), ()),
    ],
    ids=["leaky", "clip at 0", "clip at 0 and 1", "hard swish"],
)
def test_what_is_no_relu_keeps_its_rule(activation, constants):
    alone = model([activation], *constants)
    with pytest.raises(UnsupportedError, match="runs no ReLU") as refused:
        gradient(alone, relu="guided")
    assert "\n" not in str(refused.value)
    # Beside a ReLU of 5 + |score|, which every gradient passes that is positive, and none else.
    (own,) = gradient(alone)
    activation.output[0] = "soft"
    ends = [helper.make_node("Relu", ["soft"], ["active"])]
    both = model([activation, *ends], *constants)
    activation.output[0] = "active"
    (found,) = gradient(both, ["soft"], relu="guided")
    (through,) = gradient(both, ["x"], relu="guided")
    opened = installed().open(alone, "onnx")
    with opened.trace(X, ["active"]) as trace:
        soft = trace.activations[0]
    g = np.where(soft > 0, np.maximum(COTANGENT @ W[1].T, 0), 0)
    np.testing.assert_allclose(found, g, **FLOAT32)
    slopes = _slopes(alone)
    np.testing.assert_allclose(through, (g * slopes) @ W[0].T, **FLOAT32)
    assert own.shape == X.shape


def _slopes(proto):
    """The derivative of the activation at each hidden value, by its own plain gradient."""
    opened = installed().open(proto, "onnx")
    with opened.trace(X, ["hidden", "active"]) as trace:
        to_hidden, to_active = trace.vjp({"y": COTANGENT})
    return to_hidden / to_active


def test_a_quantised_model_is_refused():
    nodes = [
        node("QuantizeLinear", "scale", "zero"),
        helper.make_node("DequantizeLinear", ["active", "scale", "zero"], ["back"]),
        helper.make_node("Relu", ["back"], ["positive"]),
    ]
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    proto = model(nodes, scalar("scale", 0.1), zero)
    proto.graph.node[-1].input[0] = "positive"
    with pytest.raises(UnsupportedError, match="before it was quantised") as refused:
        gradient(proto, relu="guided")
    assert "\n" not in str(refused.value)


def test_an_input_of_integers_is_refused():
    rows = helper.make_tensor_value_info("rows", TensorProto.INT64, ["n"])
    cast = helper.make_node("Cast", ["rows"], ["float"], to=TensorProto.FLOAT)
    column = helper.make_node("Unsqueeze", ["float", "axes"], ["column"])
    axes = numpy_helper.from_array(np.array([1]), "axes")
    proto = model([cast, column, node("Mul", "column")], axes, extra=[rows])
    inputs = {"x": X, "rows": np.arange(5)}
    (found,) = gradient(proto, ["x"], inputs)
    expected = (COTANGENT @ W[1].T * np.arange(5)[:, None]) @ W[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)  # rows up to 4
    with pytest.raises(InputError, match="input 'rows' was asked for, but it holds int64") as no:
        gradient(proto, ["rows"], inputs)
    assert "\n" not in str(no.value)


def test_an_input_keeps_its_layout():
    """Channels last and with a channel axis that the graph tells: still as the model takes it."""
    turned = helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2])
    conv = helper.make_node("Conv", ["turned", "k"], ["y"])
    kernel = RNG.normal(size=(2, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [turned, conv],
        "last",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 5, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 4, 5])],
        [numpy_helper.from_array(kernel, "k")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    opened = installed().open(proto, "onnx")
    assert opened.inputs[0].layout == "channels_last"
    picture = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32)
    cotangent = RNG.normal(size=(2, 2, 4, 5)).astype(np.float32)
    with opened.trace(picture, ["x"]) as trace:
        (found,) = trace.vjp({"y": cotangent})
        np.testing.assert_array_equal(trace.activations[0], picture)
    np.testing.assert_allclose(
        found, np.einsum("noij,oc->nijc", cotangent, kernel[:, :, 0, 0]), **FLOAT32
    )
