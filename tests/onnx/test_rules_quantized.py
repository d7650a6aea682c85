"""Quantised operators: ours against central differences of the same on floats, saturation kept.

Straight through, the gradient of a quantised operator is that of its float twin, in which each
quantisation is a clip to what the integers can hold.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

import onnx
from gradcam_multi_onnx.autodiff.rules import REGISTRY
from gradcam_multi_onnx.autodiff.walk import differentiate
from gradcam_multi_onnx.graph import Graph, Type
from gradcam_multi_onnx.session import make_session
from gradcam_multi_onnx.source import open_source
from onnx import NodeProto, TensorProto, helper, numpy_helper

from gradcam_multi.errors import UnsupportedError

SCALE, ZERO = 0.05, 100
LOW, HIGH = (0 - ZERO) * SCALE, (255 - ZERO) * SCALE
OUT, OUT_ZERO = 0.07, 30
OUT_LOW, OUT_HIGH = (0 - OUT_ZERO) * OUT, (255 - OUT_ZERO) * OUT
MICROSOFT = "com.microsoft"
node = helper.make_node

WEIGHTS: dict[str, np.ndarray] = {
    "s": np.float32(SCALE), "z": np.uint8(ZERO), "os": np.float32(OUT), "oz": np.uint8(OUT_ZERO),
    "one": np.float32(1), "low": np.float32(LOW), "high": np.float32(HIGH),
    "olow": np.float32(OUT_LOW), "ohigh": np.float32(OUT_HIGH),
    "ws": np.float32(0.02), "wz": np.int8(3), "axes": np.array([2, 3]),
    "half": np.float32(0.5),
}  # fmt: skip
_RANDOM = np.random.default_rng(0)
WEIGHTS["kq"] = _RANDOM.integers(-100, 100, (3, 2, 3, 3), dtype=np.int8)
WEIGHTS["k"] = ((WEIGHTS["kq"].astype("f4") - 3) * 0.02).astype("f4")
WEIGHTS["mq"] = _RANDOM.integers(-100, 100, (4, 5), dtype=np.int8)
WEIGHTS["m"] = ((WEIGHTS["mq"].astype("f4") - 3) * 0.02).astype("f4")
WEIGHTS["vs"] = np.array([0.02, 0.03, 0.01], np.float32)  # one a channel
WEIGHTS["vz"] = np.zeros(3, np.int8)
WEIGHTS["kv"] = WEIGHTS["kq"].astype("f4") * WEIGHTS["vs"].reshape(3, 1, 1, 1)
WEIGHTS["other"] = np.float32(_RANDOM.normal(size=(1, 2, 4, 4)))
WEIGHTS["otherq"] = _RANDOM.integers(60, 140, (1, 2, 4, 4), dtype=np.uint8)
WEIGHTS["other"] = ((WEIGHTS["otherq"].astype("f4") - ZERO) * SCALE).astype("f4")
WEIGHTS = {name: np.asarray(value) for name, value in WEIGHTS.items()}


@dataclass(frozen=True)
class Twins:
    """An operator on integers, from `q` to `r`, and on floats, from `x` to `y`."""

    quantised: NodeProto
    floating: NodeProto
    shape: tuple[int, ...] = (1, 2, 4, 4)
    opset: int = 13
    dequantised: bool = False
    """Whether the quantised operator's result is a float."""
    unbounded: bool = False
    """Whether nothing is quantised on the way in, either."""
    extra: tuple[NodeProto, ...] = field(default=())


def twins(op: str, inputs: list[str], floating: NodeProto, domain: str = MICROSOFT,
          attributes: dict[str, Any] | None = None, **more: Any) -> Twins:  # fmt: skip
    made = node(op, inputs, ["r"], domain=domain, **(attributes or {}))
    return Twins(made, floating, **more)


IN, BACK = ["q", "s", "z"], ["os", "oz"]
CONV = [*IN, "kq", "ws", "wz", *BACK]
conv = node("Conv", ["x", "k"], ["y"])
matmul = node("MatMul", ["x", "m"], ["y"])
TWINS = [
    twins("QLinearConv", CONV, conv, ""),
    twins("QLinearConv", [*IN, "kq", "vs", "vz", *BACK], node("Conv", ["x", "kv"], ["y"]), ""),
    twins("QLinearConv", CONV, node("Conv", ["x", "k"], ["y"], pads=[1, 0, 1, 1], strides=[2, 1]),
          "", {"pads": [1, 0, 1, 1], "strides": [2, 1]}, opset=10),
    twins("QLinearConv", CONV, conv, MICROSOFT),
    twins("QLinearMatMul", [*IN, "mq", "ws", "wz", *BACK], matmul, ""),
    twins("QGemm", [*IN, "mq", "ws", "wz", "", *BACK],
          node("Gemm", ["x", "m"], ["y"], alpha=0.5), attributes={"alpha": 0.5}, shape=(3, 4)),
    twins("QGemm", [*IN, "mq", "ws", "wz"], node("Gemm", ["x", "m"], ["y"]), shape=(3, 4),
          dequantised=True),
    twins("QLinearAdd", [*IN, "otherq", "s", "z", *BACK], node("Add", ["x", "other"], ["y"])),
    twins("QLinearMul", [*IN, "otherq", "s", "z", *BACK], node("Mul", ["x", "other"], ["y"])),
    twins("QLinearSigmoid", [*IN, *BACK], node("Sigmoid", ["x"], ["y"])),
    twins("QLinearLeakyRelu", [*IN, *BACK], node("LeakyRelu", ["x"], ["y"], alpha=0.2),
          attributes={"alpha": 0.2}),
    twins("QLinearAveragePool", [*IN, *BACK],
          node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2]),
          attributes={"kernel_shape": [2, 2]}),
    twins("QLinearGlobalAveragePool", [*IN, *BACK], node("GlobalAveragePool", ["x"], ["y"])),
    twins("QLinearSoftmax", [*IN, *BACK], node("Softmax", ["x"], ["y"], axis=1),
          attributes={"axis": 1, "opset": 13}),
    twins("QLinearConcat", [*BACK, *IN, "otherq", "s", "z"],
          node("Concat", ["x", "other"], ["y"], axis=1), attributes={"axis": 1}),
    twins("MatMulIntegerToFloat", ["q", "mq", "s", "ws", "z", "wz"], matmul, dequantised=True),
]  # fmt: skip
MOVES = [
    node("MaxPool", ["q"], ["r"], kernel_shape=[2, 2], strides=[2, 2]),
    node("Identity", ["q"], ["r"]),
    node("Transpose", ["q"], ["r"], perm=[1, 0, 3, 2]), node("Flatten", ["q"], ["r"]),
    node("Concat", ["q", "otherq"], ["r"], axis=1),
    node("DepthToSpace", ["q"], ["r"], blocksize=1),
]  # fmt: skip


def build(nodes: list[NodeProto], shape: tuple[int, ...], opset: int, *results: str) -> Any:
    used = {name for made in nodes for name in made.input}
    tensors = [numpy_helper.from_array(a, name) for name, a in WEIGHTS.items() if name in used]
    inputs = [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)]
    outputs = [onnx.ValueInfoProto(name=name) for name in results]
    graph = helper.make_graph(nodes, "small", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def on_integers(case: Twins) -> list[NodeProto]:
    out = node("DequantizeLinear", ["r", *BACK], ["y"])
    if case.dequantised:
        out = node("Identity", ["r"], ["y"])
    return [node("QuantizeLinear", ["x0", "s", "z"], ["q"]), case.quantised, out]


def on_floats(case: Twins) -> list[NodeProto]:
    """Clips as Max and Min: the operator before opset 11 has attributes."""
    copy = NodeProto()
    copy.CopyFrom(case.floating)
    copy.output[0] = "f"
    nodes = [node("Max", ["x0", "low"], ["a"]), node("Min", ["a", "high"], ["x"]), copy]
    if case.dequantised:
        return [*nodes, node("Identity", ["f"], ["y"])]
    return [*nodes, node("Max", ["f", "olow"], ["b"]), node("Min", ["b", "ohigh"], ["y"])]


def gradient(model: onnx.ModelProto, x: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    graph = Graph(open_source(model))
    made = [n for n in graph.producer if graph.type(n).shape is None or n in ("q", "r")]
    for name, array in values_of(model, made, x).items():
        code = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.types[name] = Type(code, array.shape)
    back = differentiate(graph, ["x0"], "y")
    onnx.checker.check_model(back.model, full_check=True)
    values = {"x0": x, **values_of(model, [n for n in back.reads if n != "x0"], x)}
    feeds = {name: values[name] for name in back.reads} | {back.cotangent: cotangent}
    (found,) = make_session(back.model.SerializeToString()).run([back.results["x0"]], feeds)
    return np.asarray(found)


def values_of(model: onnx.ModelProto, names: list[str], x: np.ndarray) -> dict[str, np.ndarray]:
    if not names:
        return {}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    found = make_session(copy.SerializeToString()).run(names, {"x0": x})
    return dict(zip(names, found, strict=True))


def grid(shape: tuple[int, ...]) -> np.ndarray:
    """Values that the integers hold exactly, none at zero, some beyond what they can hold."""
    whole = _RANDOM.integers(5, 90, shape) + 100 * _RANDOM.integers(0, 2, shape)
    x = (whole - ZERO) * np.float32(SCALE)
    x.reshape(-1)[[0, 3]] = LOW - 1, HIGH + 1
    return x.astype(np.float32)


def slow(
    model: onnx.ModelProto, x: np.ndarray, cotangent: np.ndarray, step: float = 2e-3
) -> np.ndarray:
    session, found = make_session(model.SerializeToString()), np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            ends.append((session.run(["y"], {"x0": moved})[0].astype("f8") * cotangent).sum())
        found[index] = (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.parametrize("case", TWINS, ids=lambda case: f"{case.quantised.op_type}-{case.opset}")
def test_straight_through_equals_the_float_twin(case: Twins) -> None:
    integers = build(on_integers(case), case.shape, case.opset, "y")
    floats = build(on_floats(case), case.shape, case.opset, "y")
    x = grid(case.shape)
    y = values_of(integers, ["y"], x)["y"]
    cotangent = _RANDOM.standard_normal(y.shape).astype(np.float32)
    # Where the result saturates, by rounding or by more, only one of the two may know.
    if not case.dequantised:
        edge = (y <= OUT_LOW + OUT) | (y >= OUT_HIGH - OUT)
        cotangent[edge] = 0
    ours, expected = gradient(integers, x, cotangent), slow(floats, x, cotangent)
    assert ours.reshape(-1)[0] == ours.reshape(-1)[3] == 0  # saturated
    # Differences of float32 sums over steps of 2e-3; sigmoid and softmax are also taken at
    # results that were rounded by half of 0.07.
    rounded = case.quantised.op_type in ("QLinearSigmoid", "QLinearSoftmax")
    tolerance = 0.04 if rounded else 3e-3
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.op_type)
def test_quantised_values_may_be_moved_about(move: NodeProto) -> None:
    """The gradient of the same moves on floats, which are among the values moved."""
    copy = NodeProto()
    copy.CopyFrom(move)
    for place, name in enumerate(copy.input):
        copy.input[place] = {"q": "x", "otherq": "other"}[name]
    case = Twins(move, copy)
    nodes = on_integers(case)
    nodes[-1] = node("DequantizeLinear", ["r", "s", "z"], ["y"])
    integers = build(nodes, case.shape, 13, "y")
    case = Twins(move, copy, dequantised=True)
    floats = build(on_floats(case), case.shape, 13, "y")
    x = np.unique(grid((64,)))[:40]  # no ties in a pooling
    x = _RANDOM.permutation(np.arange(32) * 5 + 20).reshape(case.shape)
    x = ((x - ZERO) * np.float32(SCALE)).astype(np.float32)
    cotangent = _RANDOM.standard_normal(values_of(integers, ["y"], x)["y"].shape).astype("f4")
    np.testing.assert_allclose(
        gradient(integers, x, cotangent), slow(floats, x, cotangent), rtol=0, atol=5e-3
    )


def dynamic(op: str) -> list[NodeProto]:
    weight = "kq" if op == "ConvInteger" else "mq"
    return [
        node("DynamicQuantizeLinear", ["x0"], ["q", "qs", "qz"]),
        node(op, ["q", weight, "qz", "wz"], ["i"]), node("Cast", ["i"], ["c"], to=1),
        node("Mul", ["qs", "ws"], ["both"]), node("Mul", ["c", "both"], ["y"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "twin"),
    [
        (dynamic("ConvInteger"), conv), (dynamic("MatMulInteger"), matmul),
        ([node("DynamicQuantizeMatMul", ["x0", "mq", "ws", "wz"], ["y"], domain=MICROSOFT)],
         matmul),
    ],
    ids=["ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"],
)  # fmt: skip
def test_dynamic_quantisation_passes_everything(nodes: list[NodeProto], twin: NodeProto) -> None:
    floats = build([node("Identity", ["x0"], ["x"]), twin], (1, 2, 4, 4), 13, "y")
    integers = build(nodes, (1, 2, 4, 4), 13, "y")
    x = grid((1, 2, 4, 4))
    cotangent = _RANDOM.standard_normal(values_of(floats, ["y"], x)["y"].shape).astype("f4")
    # Linear in x, so that a long step leaves nothing but float32 rounding.
    expected = slow(floats, x, cotangent, step=0.5)
    np.testing.assert_allclose(gradient(integers, x, cotangent), expected, rtol=0, atol=1e-4)


def test_bounds_are_strict() -> None:
    """A ReLU that the quantiser swallowed lives in its lowest integer."""
    nodes = [
        node("QuantizeLinear", ["x0", "s", "relu"], ["q"]),
        node("DequantizeLinear", ["q", "s", "relu"], ["y"]),
    ]
    model = build(nodes, (4,), 13, "y")
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "relu"))
    x = np.array([-1.0, 0.0, 2.0, 13.0], np.float32)  # 12.75 is the highest
    assert gradient(model, x, np.ones(4, np.float32)).tolist() == [0, 0, 1, 0]


def test_a_scale_for_each_channel() -> None:
    nodes = [
        node("QuantizeLinear", ["x0", "vs", "vz"], ["q"], axis=1),
        node("DequantizeLinear", ["q", "vs", "vz"], ["y"], axis=1),
    ]
    x = np.ones((2, 3, 2), np.float32)
    assert gradient(build(nodes, x.shape, 13, "y"), x, 2 * x).tolist() == (2 * x).tolist()


def test_quantisation_in_blocks_is_refused() -> None:
    WEIGHTS["bs"], WEIGHTS["bz"] = np.ones((2, 2), np.float32), np.zeros((2, 2), np.int8)
    nodes = [
        node("QuantizeLinear", ["x0", "bs", "bz"], ["q"], axis=1, block_size=2),
        node("DequantizeLinear", ["q", "bs", "bz"], ["y"], axis=1, block_size=2),
    ]
    with pytest.raises(UnsupportedError, match="quantised in blocks"):
        differentiate(Graph(open_source(build(nodes, (2, 4), 21, "y"))), ["x0"], "y")


COVERED = {(t.quantised.domain, t.quantised.op_type) for t in TWINS} | {
    ("", "QuantizeLinear"), ("", "DequantizeLinear"), ("", "DynamicQuantizeLinear"),
    ("", "ConvInteger"), ("", "MatMulInteger"), (MICROSOFT, "DynamicQuantizeMatMul"),
    (MICROSOFT, "QuantizeLinear"), (MICROSOFT, "DequantizeLinear"),
}  # fmt: skip


def test_every_quantised_operator_has_a_case() -> None:
    words = ("QLinear", "Integer", "uantize", "QGemm")
    known = {
        (e.domain, e.op) for e in REGISTRY.entries()
        if e.kind in ("rule", "lowered") and any(word in e.op for word in words)
    }  # fmt: skip
    assert known == COVERED
