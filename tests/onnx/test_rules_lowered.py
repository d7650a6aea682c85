"""Operators taken apart, and those that no CPU kernel runs: against float64 NumPy formulas."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

import onnx
from gradcam_multi_onnx.autodiff import registry, rules
from gradcam_multi_onnx.autodiff.registry import Entry, Registry, lowering, vjp
from gradcam_multi_onnx.autodiff.rules import REGISTRY
from gradcam_multi_onnx.autodiff.walk import Gradient, differentiate
from gradcam_multi_onnx.graph import Graph, Type
from gradcam_multi_onnx.session import make_session
from gradcam_multi_onnx.source import open_source
from onnx import TensorProto, helper, numpy_helper

from gradcam_multi.errors import UnsupportedError

Function = Callable[[np.ndarray], np.ndarray]
node = helper.make_node
MICROSOFT = "com.microsoft"
_RANDOM = np.random.default_rng(0)
WEIGHT = _RANDOM.normal(size=(4, 2, 3, 3))
ROW = _RANDOM.normal(size=4)
OTHER = _RANDOM.normal(size=(2, 3, 3, 4))


def graph_of(
    nodes: list[onnx.NodeProto], x: np.ndarray, weights: dict[str, np.ndarray], opset: int = 18,
    y: tuple[int, ...] | None = None,
) -> Graph:  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, x.shape)]
    outputs = [onnx.ValueInfoProto(name="y")]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1),
              helper.make_opsetid("my.domain", 1)]  # fmt: skip
    graph = helper.make_graph(nodes, "small", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    found = Graph(open_source(model))
    if y is not None:
        found.types["y"] = Type(TensorProto.DOUBLE, y)
    return found


def run(back: Gradient, x: np.ndarray, cotangent: np.ndarray, y: Any = None) -> np.ndarray:
    onnx.checker.check_model(back.model, full_check=True)
    values = {"x": x, "y": y, back.cotangent: cotangent}
    feeds = {name: values[name] for name in (*back.reads, back.cotangent)}
    (found,) = make_session(back.model.SerializeToString()).run(list(back.results.values()), feeds)
    return np.asarray(found)


def slow(function: Function, x: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    found = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[index] = 1e-5
        found[index] = ((function(x + step) - function(x - step)) * cotangent).sum() / 2e-5
    return found


def convolved(x: np.ndarray) -> np.ndarray:
    """The obvious loops; channels last."""
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    y = np.zeros((x.shape[0], rows, columns, 4))
    for i in range(rows):
        for j in range(columns):
            y[:, i, j] = np.einsum("nhwc,ochw->no", x[:, i : i + 3, j : j + 3], WEIGHT)
    return y


def grouped(x: np.ndarray) -> np.ndarray:
    parts = x.reshape(2, 3, 3, 2, 2)
    centred = parts - parts.mean(axis=(1, 2, 4), keepdims=True)
    variance = (centred**2).mean(axis=(1, 2, 4), keepdims=True)
    y = (centred / np.sqrt(variance + 0.1)).reshape(x.shape) * ROW + ROW[::-1]
    return y / (1 + np.exp(-y))


CASES: list[tuple[onnx.NodeProto, dict[str, np.ndarray], tuple[int, ...], Function]] = [
    (node("NhwcConv", ["x", "w"], ["y"], domain=MICROSOFT),
     {"w": WEIGHT.transpose(0, 2, 3, 1)}, (1, 4, 5, 2), convolved),
    (node("NhwcFusedConv", ["x", "w", "", "z"], ["y"], domain=MICROSOFT, activation="Tanh"),
     {"w": WEIGHT * 0.1, "z": OTHER[:1, :2]}, (1, 4, 5, 2),
     lambda x: np.tanh(convolved(x) * 0.1 + OTHER[:1, :2])),
    (node("BiasAdd", ["x", "b", "s"], ["y"], domain=MICROSOFT), {"b": ROW, "s": OTHER[0]},
     (3, 3, 4), lambda x: x + ROW + OTHER[0]),
    (node("GroupNorm", ["x", "s", "b"], ["y"], domain=MICROSOFT, groups=2, activation=1,
          epsilon=0.1), {"s": ROW, "b": ROW[::-1].copy()}, (2, 3, 3, 4), grouped),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].op_type)
def test_fused_operators_without_a_kernel(case: Any) -> None:
    made, weights, shape, function = case
    x = _RANDOM.normal(size=shape)
    y = function(x)
    # In float32 but for the sum: ONNX Runtime has no float64 kernels of the others' parts.
    graph = graph_of([made], x, weights, y=y.shape)
    cotangent = _RANDOM.normal(size=y.shape)
    if made.op_type != "BiasAdd":
        single = {name: np.float32(a) for name, a in weights.items()}
        graph = graph_of([made], x, single, y=y.shape)
        graph.types["x"] = Type(TensorProto.FLOAT, x.shape)
        graph.types["y"] = Type(TensorProto.FLOAT, y.shape)
        back = differentiate(graph, ["x"], "y")
        found = run(back, np.float32(x), np.float32(cotangent), np.float32(y))
        tolerance = 1e-5
    else:
        found = run(differentiate(graph, ["x"], "y"), x, cotangent, y)
        tolerance = 1e-8
    np.testing.assert_allclose(found, slow(function, x, cotangent), rtol=0, atol=tolerance)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("zeros", [(), (1,), (1, 3)])
def test_cumulative_product(exclusive: int, reverse: int, zeros: tuple[int, ...]) -> None:
    def function(x: np.ndarray) -> np.ndarray:
        x = x[:, ::-1] if reverse else x
        y = np.cumprod(x, axis=1)
        if exclusive:
            y = np.concatenate([np.ones_like(y[:, :1]), y[:, :-1]], axis=1)
        return y[:, ::-1] if reverse else y

    x = _RANDOM.normal(size=(2, 5))
    x[0, list(zeros)] = 0
    made = node("CumProd", ["x", "axis"], ["y"], exclusive=exclusive, reverse=reverse)
    graph = graph_of([made], x, {"axis": np.array(1)}, 26, x.shape)
    cotangent = _RANDOM.normal(size=x.shape)
    back = differentiate(graph, ["x"], "y")
    expected = slow(function, x, cotangent)  # cubic at most: rounding over the step, 1e-10
    np.testing.assert_allclose(run(back, x, cotangent, function(x)), expected, rtol=0, atol=1e-8)


def branches(condition: bool) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    def branch(name: str, op: str) -> onnx.GraphProto:
        nodes = [node("Mul", ["x", "two"], [f"{name}_m"]), node(op, [f"{name}_m"], [f"{name}_r"])]
        two = numpy_helper.from_array(np.array(2.0), "two")
        return helper.make_graph(nodes, name, [], [onnx.ValueInfoProto(name=f"{name}_r")], [two])

    made = node(
        "If", ["c"], ["y"], then_branch=branch("then", "Sin"), else_branch=branch("else", "Exp")
    )
    return [made], {"c": np.array(condition)}


@pytest.mark.parametrize("opset", [11, 16, 21])
@pytest.mark.parametrize("condition", [True, False])
def test_the_branch_of_a_constant_condition(condition: bool, opset: int) -> None:
    nodes, weights = branches(condition)
    x, cotangent = _RANDOM.normal(size=(2, 3)), _RANDOM.normal(size=(2, 3))
    back = differentiate(graph_of(nodes, x, weights, opset, x.shape), ["x"], "y")
    y = np.sin(2 * x) if condition else np.exp(2 * x)
    slope = 2 * (np.cos(2 * x) if condition else y)
    np.testing.assert_allclose(run(back, x, cotangent, y), slope * cotangent, rtol=1e-9)


def test_a_condition_that_the_input_decides_is_refused() -> None:
    nodes, _ = branches(True)
    nodes = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Cast", ["s"], ["c"], to=9), *nodes]
    x = np.ones((2, 3))
    with pytest.raises(UnsupportedError, match=r"If 'y' .*control flow"):
        differentiate(graph_of(nodes, x, {}, y=x.shape), ["x"], "y")


def test_loops_are_refused_by_name() -> None:
    for op in ("Loop", "Scan", "LSTM", "GRU", "RNN"):
        entry = REGISTRY.find("", op, 18)
        assert entry is not None
        assert entry.kind == "refused"
    made = node("LSTM", ["x", "w", "r"], ["y"], hidden_size=1)
    weights = {"w": np.ones((1, 4, 3)), "r": np.ones((1, 4, 1))}
    graph = graph_of([made], np.ones((2, 1, 3)), weights, y=(2, 1, 1, 1))
    with pytest.raises(UnsupportedError, match=r"cannot differentiate LSTM 'y'.*recurrent"):
        differentiate(graph, ["x"], "y")


def test_blocked_layouts_are_refused_with_what_to_do() -> None:
    made = node("Conv", ["x"], ["y"], domain="com.microsoft.nchwc")
    with pytest.raises(UnsupportedError, match="export the model again"):
        differentiate(graph_of([made], np.ones((2, 3)), {}, y=(2, 3)), ["x"], "y")


def test_local_functions_are_inlined() -> None:
    body = [node("Sin", ["a"], ["s"]), node("Mul", ["s", "a"], ["b"])]
    opset = helper.make_opsetid("", 18)
    function = helper.make_function("my.domain", "Wave", ["a"], ["b"], body, [opset])
    x, cotangent = _RANDOM.normal(size=(2, 3)), _RANDOM.normal(size=(2, 3))
    inputs = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, x.shape)]
    made = [node("Wave", ["x"], ["y"], domain="my.domain")]
    graph = helper.make_graph(made, "g", inputs, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(
        graph, functions=[function], ir_version=10,
        opset_imports=[opset, helper.make_opsetid("my.domain", 1)],
    )  # fmt: skip
    graph_read = Graph(open_source(model))
    back = differentiate(graph_read, ["x"], "y")
    names = list(back.reads)
    inlined = onnx.inliner.inline_local_functions(model)
    del inlined.graph.output[:]
    inlined.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "x")
    values = {"x": x}
    if len(inlined.graph.output):
        found = make_session(inlined.SerializeToString()).run(None, {"x": x})
        values |= dict(zip([v.name for v in inlined.graph.output], found, strict=True))
    feeds = {name: values[name] for name in names} | {back.cotangent: cotangent}
    (ours,) = make_session(back.model.SerializeToString()).run(list(back.results.values()), feeds)
    np.testing.assert_allclose(ours, cotangent * (np.sin(x) + x * np.cos(x)), rtol=1e-9)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    own = Registry()
    for entry in REGISTRY.entries():
        own.add(entry)
    monkeypatch.setattr(registry, "REGISTRY", own)
    return own


def test_third_parties_register_rules_and_lowerings(own_registry: Registry) -> None:
    @vjp("Twice", domain="my.domain")
    def _twice(n: Any, g: Any) -> Any:
        return (g * 2,)

    @lowering("Wave", attributes=("rate",), domain="my.domain")
    def _wave(n: Any) -> None:
        n.give(n.op("Sin", n.op("Mul", n[0], n.constant(n.attribute("rate")))))

    x, cotangent = _RANDOM.normal(size=(2, 3)), _RANDOM.normal(size=(2, 3))
    nodes = [
        node("Wave", ["x"], ["w"], domain="my.domain", rate=3.0),
        node("Twice", ["w"], ["y"], domain="my.domain"),
    ]
    graph = graph_of(nodes, x, {}, y=x.shape)
    graph.types["w"] = graph.types["y"]
    back = differentiate(graph, ["x"], "y", own_registry)
    np.testing.assert_allclose(run(back, x, cotangent), 6 * np.cos(3 * x) * cotangent, rtol=1e-9)
    assert REGISTRY.find("my.domain", "Twice", 1) is None  # the package's own is as it was


def test_a_lowering_may_refuse_and_is_given_known_attributes_only(own_registry: Registry) -> None:
    def refusing(n: Any) -> None:
        n.refuse("it is a test")

    own_registry.add(Entry("Twice", "my.domain", 1, lower=refusing))
    graph = graph_of([node("Twice", ["x"], ["y"], domain="my.domain")], np.ones(2), {}, y=(2,))
    with pytest.raises(UnsupportedError, match="it is a test"):
        differentiate(graph, ["x"], "y", own_registry)
    graph = graph_of([node("Twice", ["x"], ["y"], domain="my.domain", a=1)], np.ones(2), {}, y=(2,))
    with pytest.raises(UnsupportedError, match="'a' is not understood"):
        differentiate(graph, ["x"], "y", own_registry)


def test_third_parties_rules_enter_by_an_entry_point(
    own_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Good:
        name = "good"

        def load(self) -> None:
            vjp("Twice", domain="my.domain")(lambda n, g: (g * 2,))

    class Bad(Good):
        name = "bad"

        def load(self) -> None:
            raise ImportError("not here")

    monkeypatch.setattr(rules, "entry_points", lambda group: [Bad(), Good()])
    monkeypatch.setattr(rules, "BROKEN", {})
    rules.load_rules()
    assert own_registry.find("my.domain", "Twice", 1) is not None
    assert list(rules.BROKEN) == ["bad"]
