"""Gradients of a classifier's product, by the columns of the cotangent that are not zero."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

import onnx
from gradcam_multi_onnx.autodiff.walk import Gradient, differentiate
from gradcam_multi_onnx.graph import Graph
from gradcam_multi_onnx.plugin import gradcam_multi_open
from gradcam_multi_onnx.session import completed_session
from gradcam_multi_onnx.source import open_source
from onnx import TensorProto, helper, numpy_helper

import gradcam_multi as gm

node = helper.make_node
CHANNELS, CLASSES = 210, 1000


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


WEIGHT = normal(CHANNELS, CLASSES)
HEADS: dict[str, tuple[list[onnx.NodeProto], np.ndarray, float]] = {
    "Gemm": ([node("Gemm", ["f", "w", "c"], ["y"], beta=0.5)], WEIGHT, 1.0),
    "Gemm, alpha": ([node("Gemm", ["f", "w", "c"], ["y"], alpha=0.3)], WEIGHT, 0.3),
    "Gemm, transB": ([node("Gemm", ["f", "w", "c"], ["y"], transB=1)], WEIGHT.T.copy(), 1.0),
    "Gemm, transB, alpha": (
        [node("Gemm", ["f", "w"], ["y"], transB=1, alpha=-2.0)], WEIGHT.T.copy(), -2.0,
    ),
    "MatMul": ([node("MatMul", ["f", "w"], ["y"])], WEIGHT, 1.0),
    "MatMul, Add": (
        [node("MatMul", ["f", "w"], ["m"]), node("Add", ["m", "c"], ["y"])], WEIGHT, 1.0,
    ),
    "transposed MatMul": (
        [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("MatMul", ["f", "t"], ["y"])],
        WEIGHT.T.copy(), 1.0,
    ),
}  # fmt: skip
"""Nodes from `f` (N, 210) to `y` (N, 1000), the weight they read, and by what it is multiplied."""


def model_of(head: str, batch: Any, softmax: bool = False) -> onnx.ModelProto:
    """Tanh of `x` (N, 210, 2, 2), averaged, then the head."""
    nodes = [
        node("Tanh", ["x"], ["a"]), node("GlobalAveragePool", ["a"], ["p"]),
        node("Flatten", ["p"], ["f"]), *HEADS[head][0],
    ]  # fmt: skip
    name = "y"
    if softmax:
        nodes.append(node("Softmax", ["y"], [name := "probabilities"], axis=1))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, CHANNELS, 2, 2])
    y = helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, CLASSES])
    tensors = [numpy_helper.from_array(HEADS[head][1], "w")]
    tensors.append(numpy_helper.from_array(normal(CLASSES, seed=1), "c"))
    body = helper.make_graph(nodes, "small", [x], [y], tensors)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def graph_of(head: str, batch: Any = "N") -> Graph:
    return Graph(open_source(model_of(head, batch)))


def operators(back: Gradient) -> set[str]:
    return {made.op_type for made in back.model.graph.node}


def cotangents(batch: int) -> dict[str, np.ndarray]:
    """One class per item, the same for all, a difference, few, many, all, and none."""
    zeros = np.zeros((batch, CLASSES), np.float32)
    found = {name: zeros.copy() for name in ("class", "same", "difference", "few", "many", "none")}
    for item in range(batch):
        found["class"][item, (7 * item + 3) % CLASSES] = 1
        found["same"][item, 999] = 2
        found["difference"][item, [item, 500]] = 1, -1
        found["few"][item, 100:200:9] = normal(12, seed=item)
        found["many"][item, ::2] = normal(500, seed=item)
    return found | {"all": normal(batch, CLASSES, seed=9)}


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_every_cotangent_is_multiplied_in_full(head: str, batch: Any) -> None:
    graph = graph_of(head, batch)
    back = differentiate(graph, ["f"], "y", referenced=True)
    assert {"If", "NonZero"} <= operators(back)
    session = completed_session(back.model, back.weights, graph.source)
    (result,) = back.results.values()
    for name, g in cotangents(3 if batch == "N" else batch).items():
        found = session.run([result], {back.cotangent: g})[0]
        expected = HEADS[head][2] * g.astype(np.float64) @ WEIGHT.T.astype(np.float64)
        # float32: sums of up to 1000 products of the order of 1, of which many cancel.
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-4, err_msg=name)


def test_what_is_not_finite_is_no_zero() -> None:
    graph = graph_of("Gemm")
    back = differentiate(graph, ["f"], "y", referenced=True)
    session = completed_session(back.model, back.weights, graph.source)
    for value in (np.nan, np.inf):
        g = np.zeros((2, CLASSES), np.float32)
        g[1, 42] = value
        (found,) = session.run(None, {back.cotangent: g})
        assert np.isfinite(found[0]).all()
        assert not np.isfinite(found[1]).any()


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("head", ["Gemm, transB", "MatMul, Add"])
def test_a_trace_multiplies_by_columns(head: str, softmax: bool, batch: Any) -> None:
    model = gradcam_multi_open(model_of(head, batch, softmax))
    x = normal(3, CHANNELS, 2, 2, seed=4)
    with model.trace(x, ["a"]) as trace:
        for name, g in cotangents(3).items():
            (found,) = trace.vjp({model.outputs[0].name: g})
            mean = g.astype(np.float64) @ WEIGHT.T.astype(np.float64) / 4
            expected = np.broadcast_to(mean[:, :, None, None], x.shape)
            # As above, over 4.
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-5, err_msg=name)
    (plan,) = model._plans.values()
    assert "If" in operators(plan.backward[model.outputs[0].name].gradient)


def test_a_small_weight_is_multiplied_at_once() -> None:
    small = node("MatMul", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 10])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])
    tensors = [numpy_helper.from_array(WEIGHT[:10], "w")]
    body = helper.make_graph([small], "small", [x], [y], tensors)
    opset = helper.make_opsetid("", 17)
    graph = Graph(open_source(helper.make_model(body, opset_imports=[opset], ir_version=8)))
    assert "If" not in operators(differentiate(graph, ["x"], "y", referenced=True))


def test_files_hold_plain_products(tmp_path: Path) -> None:
    """What other runtimes shall run has no branches and no shapes that follow from values."""
    data = model_of("Gemm, transB", "N").SerializeToString()
    for kind in ("gradient", "heatmap"):
        path = gm.export(data, tmp_path / f"{kind}.onnx", kind=kind, layer="a")
        assert not {"If", "NonZero", "HardSigmoid"} & {
            n.op_type for n in onnx.load(path).graph.node
        }


def test_weights_beside_the_model_are_read_by_columns(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model_of("Gemm, transB", "N"), path, save_as_external_data=True, location="weights")
    model, x = gradcam_multi_open(str(path)), normal(2, CHANNELS, 2, 2, seed=4)
    g = cotangents(2)["class"]
    with model.trace(x, ["a"]) as trace:
        (found,) = trace.vjp({"y": g})
    expected = np.broadcast_to((g @ WEIGHT.T / 4)[:, :, None, None], x.shape)
    # One product of two float32 numbers.
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# ReLU in the adapter's own graphs.


def test_a_steep_slope_cut_at_one_is_a_mask() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 7])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 7])
    body = helper.make_graph([node("Relu", ["x"], ["y"])], "small", [x], [y])
    opset = helper.make_opsetid("", 17)
    graph = Graph(open_source(helper.make_model(body, opset_imports=[opset], ir_version=8)))
    back = differentiate(graph, ["x"], "y", referenced=True)
    assert "HardSigmoid" in operators(back)
    values = np.array([[0, -0.0, 1.2e-38, 1e-20, 1, 3e38, np.inf]], np.float32)
    g = normal(1, 7, seed=2)
    session = completed_session(back.model, back.weights, graph.source)
    (found,) = session.run(None, {back.cotangent: g, "y": values})
    np.testing.assert_array_equal(found, np.where(values > 0, g, 0))
