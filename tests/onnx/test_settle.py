"""Arithmetic on shapes becomes constants, and nothing that depends on data does."""

import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

import numpy as np
from gradcam_multi_onnx.graph import Graph
from gradcam_multi_onnx.plugin import gradcam_multi_open
from gradcam_multi_onnx.settle import settled, shape_values
from gradcam_multi_onnx.source import open_source
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(0)


def model(nodes: list, constants: dict[str, np.ndarray], shape: list, output: str) -> bytes:
    graph = helper.make_graph(
        nodes, "shapes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


PADDED = [
    helper.make_node("Shape", ["x"], ["shape"]),
    helper.make_node("Gather", ["shape", "two"], ["height"], axis=0),
    helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
    helper.make_node("Mod", ["height", "three"], ["odd"]),
    helper.make_node("Concat", ["zeros2", "odd", "zeros5"], ["pads"], axis=0),
    helper.make_node("Pad", ["x", "pads"], ["padded"], mode="reflect"),
    helper.make_node("Mul", ["padded", "padded"], ["square"]),
    helper.make_node("ReduceMean", ["square"], ["y"], axes=[2, 3], keepdims=0),
]
CONSTANTS = {
    "zero": np.array([0]), "two": np.array([2]), "three": np.array([3]),
    "zeros2": np.zeros(2, np.int64), "zeros5": np.zeros(5, np.int64),
}  # fmt: skip


def test_what_the_batch_decides_stays_variable() -> None:
    constants = {**CONSTANTS, "large": np.ones((80, 80), np.float32)}
    graph = Graph(open_source(model(PADDED, constants, ["n", 2, 8, 7], "y")))
    fixed = settled(graph, {"x": np.ones((1, 2, 8, 7), np.float32)}, ["x"])
    assert fixed.constant("height")
    assert fixed.constant("pads")
    assert not fixed.constant("batch")
    assert not fixed.constant("shape")
    assert fixed.arrays(["pads"])["pads"].tolist() == [0, 0, 2, 0, 0, 0, 0, 0]
    assert fixed.type("padded").shape[1:] == (2, 10, 7)
    assert fixed.type("large").shape == graph.type("large").shape == (80, 80)
    assert not graph.constant("pads")


@pytest.mark.parametrize("shape", [["n", 2, 8, 7], ["n", 2, "h", "w"]], ids=["sized", "free"])
def test_gradients_through_computed_pads(shape: list) -> None:
    opened = gradcam_multi_open(model(PADDED, CONSTANTS, shape, "y"))
    for height in (8,) if shape[2] == 8 else (8, 10, 9):
        x = RANDOM.normal(size=(3, 2, height, 7)).astype(np.float32)
        c = RANDOM.normal(size=(3, 2)).astype(np.float32)
        index = np.pad(np.arange(height), (height % 3, 0), mode="reflect")
        weight = np.bincount(index, minlength=height) / (len(index) * 7)
        expected = 2 * x * weight[:, None] * c[:, :, None, None]
        with opened.trace(x, ["x"]) as trace:
            (gradient,) = trace.vjp({"y": c})
        # float32 against float32, a handful of operations.
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def test_what_the_data_decides_is_no_shape() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Shape", ["places"], ["count"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ArgMax", ["x"], ["top"], axis=1, keepdims=0),
        helper.make_node("Unsqueeze", ["top", "zero"], ["size"]),
        helper.make_node("Concat", ["count", "shape"], ["mixed"], axis=0),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    graph = Graph(open_source(model(nodes, {"zero": np.array([0])}, ["n", 4], "y")))
    names, counted = shape_values(graph)
    assert names == ["shape"]
    assert counted == {"places"}
