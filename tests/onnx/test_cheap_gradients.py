"""What makes gradients of whole networks cheap, against the slow and obvious forms."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

import onnx
from gradcam_multi_onnx.autodiff.walk import differentiate
from gradcam_multi_onnx.session import make_session
from small_graphs import gradients, graph_of, node, normal, operators

import gradcam_multi as gm


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


# Max pooling.


def pooled_back(
    x: np.ndarray, g: np.ndarray, kernel: tuple[int, int], stride: int, pads: tuple[int, ...]
) -> np.ndarray:
    """Each cotangent to the first maximum of its window, row by row."""
    result = np.zeros_like(x)
    for n, c, i, j in np.ndindex(g.shape):
        best = None
        for a, b in product(range(kernel[0]), range(kernel[1])):
            row, column = i * stride - pads[0] + a, j * stride - pads[1] + b
            inside = 0 <= row < x.shape[2] and 0 <= column < x.shape[3]
            if inside and (best is None or x[n, c, row, column] > x[(n, c, *best)]):
                best = (row, column)
        result[(n, c, *best)] += g[n, c, i, j]
    return result


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize(
    ("kernel", "stride", "pads"),
    [
        ((3, 3), 2, (1, 1, 1, 1)),
        ((3, 3), 2, (0, 0, 0, 0)),
        ((3, 3), 2, (0, 0, 1, 1)),
        ((2, 2), 2, (0, 0, 0, 0)),
        ((3, 2), 2, (1, 0, 1, 0)),
        ((3, 3), 3, (0, 0, 0, 0)),
        ((3, 3), 3, (2, 1, 1, 2)),
    ],
)
@pytest.mark.parametrize("batch", [2, "N"])
def test_max_pooling_by_phases(
    kernel: tuple[int, int], stride: int, pads: tuple[int, ...], ceil: int, batch: Any
) -> None:
    """Few different values, so that nearly every window has ties, zeros and negatives."""
    attributes = {"kernel_shape": kernel, "strides": [stride] * 2, "pads": pads, "ceil_mode": ceil}
    pool = node("MaxPool", ["x"], ["y"], **attributes)
    graph = graph_of([pool], (batch, 3, 12, 18))
    back = differentiate(graph, ["x"], "y")
    assert "ScatterElements" not in operators(back)
    x = np.random.default_rng(0).integers(-2, 2, (2, 3, 12, 18)).astype(np.float32)
    session = make_session(graph.source.parse().SerializeToString())
    g = normal(*session.run(["y"], {"x": x})[0].shape)
    expected = pooled_back(x, g, kernel, stride, pads)
    # Sums of at most four cotangents in another order: some roundings of numbers below 10.
    np.testing.assert_allclose(gradients(graph, back, x, g)["x"], expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((1, 2, 7, 8), {"kernel_shape": [3, 3], "strides": [2, 2]}),  # does not divide 7
        ((1, 2, 8, 8), {"kernel_shape": [5, 5], "strides": [2, 2]}),  # too many comparisons
        ((1, 2, 8, 8), {"kernel_shape": [3, 3], "strides": [2, 1]}),
        ((1, 2, 8, 8), {"kernel_shape": [1, 1], "strides": [2, 2]}),
        ((1, 2, 8, 8), {"kernel_shape": [2, 2], "strides": [2, 2], "dilations": [2, 2]}),
        ((1, 2, "H", "W"), {"kernel_shape": [3, 3], "strides": [2, 2]}),
    ],
)
def test_other_windows_go_by_indices(shape: tuple[Any, ...], attributes: dict[str, Any]) -> None:
    """Those are compared with central differences in test_rules.py."""
    pool = node("MaxPool", ["x"], ["y"], **attributes)
    assert "ScatterElements" in operators(differentiate(graph_of([pool], shape), ["x"], "y"))


def test_an_infinite_cotangent_reaches_one_cell_of_a_pooling() -> None:
    """By indices: multiplied by masks it would be NaN in the others."""
    nodes = [
        node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Sqrt", ["p"], ["y"]),
    ]
    graph = graph_of(nodes, (1, 1, 4, 4))
    found = gradients(
        graph,
        differentiate(graph, ["x"], "y"),
        np.zeros((1, 1, 4, 4), np.float32),
        np.ones((1, 1, 2, 2), np.float32),
    )
    assert np.isinf(found["x"][0, 0, ::2, ::2]).all()
    assert found["x"][0, 0, 1::2].tolist() == [[0] * 4] * 2


# Dense convolutions of a stride.


def convolved_back(
    g: np.ndarray, weight: np.ndarray, stride: int, pads: tuple[int, ...], size: tuple[int, int]
) -> np.ndarray:
    """Each cotangent times the weights, added up at the taps of its window."""
    top, left, *_ = pads
    result = np.zeros((len(g), weight.shape[1], size[0] + 99, size[1] + 99))
    for i, j, a, b in np.ndindex(*g.shape[2:], *weight.shape[2:]):
        taps = np.einsum("nm,mc->nc", g[:, :, i, j].astype(np.float64), weight[:, :, a, b])
        result[:, :, i * stride - top + a, j * stride - left + b] += taps
    return result[:, :, : size[0], : size[1]]


@pytest.mark.parametrize(
    ("kernel", "stride", "pads"),
    [
        ((3, 3), 2, (1, 1, 1, 1)),
        ((3, 3), 2, (0, 0, 1, 1)),
        ((2, 2), 2, (0, 0, 0, 0)),
        ((4, 3), 2, (1, 1, 1, 1)),
        ((7, 5), 2, (3, 2, 3, 2)),
        ((3, 3), 3, (0, 0, 0, 0)),
        ((5, 4), 3, (1, 0, 1, 1)),
    ],
)
@pytest.mark.parametrize("batch", [2, "N"])
def test_convolutions_of_a_stride_by_phases(
    kernel: tuple[int, int], stride: int, pads: tuple[int, ...], batch: Any
) -> None:
    weight = normal(4, 3, *kernel, seed=1)
    conv = node("Conv", ["x", "w"], ["y"], strides=[stride] * 2, pads=pads)
    graph = graph_of([conv], (batch, 3, 12, 18), {"w": weight})
    back = differentiate(graph, ["x"], "y")
    assert {"Conv", "ConvTranspose"} <= operators(back)  # which only puts the phases together
    g = normal(2, 4, 12 // stride, 18 // stride)
    expected = convolved_back(g, weight, stride, pads, (12, 18))
    found = gradients(graph, back, normal(2, 3, 12, 18), g)["x"]
    # Sums of up to 4 x 12 products of numbers below 4, in float32.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "weight", "attributes"),
    [
        ((1, 2, 7, 8), (4, 2, 3, 3), {"strides": [2, 2], "pads": [1] * 4}),  # does not divide 7
        ((1, 2, 8, 8), (4, 2, 3, 3), {"strides": [2, 2]}),  # 3 windows, 4 cells a phase
        ((1, 2, 8, 8), (4, 2, 1, 1), {"strides": [2, 2]}),  # phases without a tap
        ((1, 2, 8, 8), (4, 2, 3, 3), {"strides": [2, 1], "pads": [1] * 4}),
        ((1, 2, 8, 8), (4, 2, 2, 2), {"strides": [2, 2], "pads": [2, 2, 0, 0]}),
        ((1, 2, 8, 8), (4, 1, 3, 3), {"strides": [2, 2], "pads": [1] * 4, "group": 2}),
        ((1, 2, "H", "W"), (4, 2, 3, 3), {"strides": [2, 2], "pads": [1] * 4}),
    ],
)
def test_other_strides_go_by_a_transposed_convolution(
    shape: tuple[Any, ...], weight: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    """Those are compared with central differences in test_rules.py."""
    conv = node("Conv", ["x", "w"], ["y"], **attributes)
    back = differentiate(graph_of([conv], shape, {"w": normal(*weight)}), ["x"], "y")
    assert "ConvTranspose" in operators(back)
    assert "Conv" not in operators(back)


# ReLU before max pooling is differentiated as if it came after it.

RELU_POOL = [
    node("Relu", ["x"], ["a"]),
    node("MaxPool", ["a"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
]


def ties(*shape: int) -> np.ndarray:
    """Few different values, most of them negative: windows of zeros, and equal maxima."""
    return np.random.default_rng(0).integers(-6, 3, shape).astype(np.float32)


@pytest.mark.parametrize("kept", ["x", "a"])
@pytest.mark.parametrize("referenced", [False, True])
def test_a_relu_before_max_pooling_masks_the_pooled_gradient(kept: str, referenced: bool) -> None:
    """From its input where that is asked for, else from its result; over the pooled cells alone."""
    nodes = [*RELU_POOL, node("Neg", ["p"], ["y"])]
    if kept == "a":
        nodes = [node("Neg", ["x"], ["n"]), node("Relu", ["n"], ["a"]), *nodes[1:]]
    graph = graph_of(nodes, ("N", 3, 12, 18))
    back = differentiate(graph, ["x"], "y", referenced=referenced)
    assert back.reads == (kept,)
    sign = 1 if kept == "x" else -1
    x, g = sign * ties(2, 3, 12, 18), normal(2, 3, 6, 9)
    a = np.maximum(sign * x, 0)
    pooled = pooled_back(a, -g, (3, 3), 2, (1, 1, 1, 1))
    # Sums of at most four cotangents in another order: some roundings of numbers below 10.
    np.testing.assert_allclose(
        gradients(graph, back, x, g)["x"], sign * pooled * (a > 0), rtol=0, atol=3e-6
    )
    assert (pooled[a == 0] != 0).any()
    masks = {"Greater", "HardSigmoid"}
    assert sum(made.op_type in masks for made in back.model.graph.node) == 1


def test_windows_of_zeros_count_where_the_relu_s_own_gradient_is_asked_for() -> None:
    graph = graph_of([*RELU_POOL, node("Neg", ["p"], ["y"])], (2, 3, 12, 18))
    x, g = ties(2, 3, 12, 18), normal(2, 3, 6, 9)
    a = np.maximum(x, 0)
    found = gradients(graph, differentiate(graph, ["x", "a"], "y"), x, g)
    expected = pooled_back(a, -g, (3, 3), 2, (1, 1, 1, 1))
    # Sums of at most four cotangents in another order: some roundings of numbers below 10.
    np.testing.assert_allclose(found["a"], expected, rtol=0, atol=3e-6)
    np.testing.assert_allclose(found["x"], expected * (a > 0), rtol=0, atol=3e-6)


def test_a_relu_with_other_readers_masks_all_that_arrives() -> None:
    """As in a residual block: the product's share is not zero where the ReLU is."""
    nodes = [
        *RELU_POOL,
        node("Exp", ["a"], ["e"]),
        node("ReduceSum", ["e"], ["r"], keepdims=1),
        node("Mul", ["p", "r"], ["y"]),
    ]
    graph = graph_of(nodes, (2, 3, 12, 18))
    x, g = ties(2, 3, 12, 18) / 4, normal(2, 3, 6, 9)
    a = np.maximum(x, 0)
    padded = np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    p = windows[:, :, ::2, ::2].max((4, 5))
    e = np.exp(a.astype(np.float64))
    pooled = pooled_back(a, (g * e.sum()).astype(np.float32), (3, 3), 2, (1, 1, 1, 1))
    expected = (pooled + e * (g * p).sum()) * (a > 0)
    found = gradients(graph, differentiate(graph, ["x"], "y"), x, g)["x"]
    # Products with a sum of 1296 float32 numbers, of the order of 1e3.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# Masks.


def test_a_mask_stops_an_infinite_cotangent() -> None:
    graph = graph_of([node("Relu", ["x"], ["a"]), node("Sqrt", ["a"], ["y"])], (1, 3))
    x = np.array([[-1, 0, 4]], np.float32)
    found = gradients(graph, differentiate(graph, ["x"], "y"), x, np.ones_like(x))
    assert found["x"].tolist() == [[0, 0, 0.25]]


def test_a_mask_stops_a_cotangent_that_an_infinite_result_multiplied() -> None:
    graph = graph_of([node("Relu", ["x"], ["a"]), node("Reciprocal", ["a"], ["y"])], (1, 3))
    x = np.array([[-1, 0, 4]], np.float32)
    found = gradients(graph, differentiate(graph, ["x"], "y"), x, np.ones_like(x))
    assert found["x"].tolist() == [[0, 0, -0.0625]]


@pytest.mark.parametrize("divisor", [0.0, 2.0])
def test_a_division_by_a_constant_is_infinite_only_by_zero(divisor: float) -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Div", ["a", "d"], ["y"])]
    graph = graph_of(nodes, (1, 2), {"d": np.array(divisor, np.float32)})
    x = np.array([[-1, 4]], np.float32)
    found = gradients(graph, differentiate(graph, ["x"], "y"), x, np.ones_like(x))
    assert found["x"].tolist() == [[0, 0.5 if divisor else np.inf]]


# x * sigmoid(x), as exporters write SiLU.

SWISH = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["a"])]


def swish_slope(x: np.ndarray) -> np.ndarray:
    s = sigmoid(x)
    return s + x * s * (1 - s)


@pytest.mark.parametrize("order", [["x", "s"], ["s", "x"]])
def test_a_product_with_the_own_sigmoid_reads_its_input_alone(order: list[str]) -> None:
    graph = graph_of([SWISH[0], node("Mul", order, ["y"])], ("N", 4))
    back = differentiate(graph, ["x"], "y")
    assert back.reads == ("x",)
    x, g = 5 * normal(64, 4), normal(64, 4, seed=1)
    # float32: roundings of a sigmoid times numbers up to 20.
    np.testing.assert_allclose(
        gradients(graph, back, x, g)["x"], g * swish_slope(x), rtol=0, atol=1e-5
    )


def test_far_from_zero_the_slope_of_swish_is_one_or_none() -> None:
    graph = graph_of([SWISH[0], node("Mul", ["x", "s"], ["y"])], (1, 6))
    x = np.array([[-1e4, -100, -30, 30, 100, 1e4]], np.float32)
    found = gradients(graph, differentiate(graph, ["x"], "y"), x, np.ones_like(x))["x"]
    # ONNX Runtime's sigmoid is off by some 1e-8, which x multiplies.
    np.testing.assert_allclose(found, [[0, 0, 0, 1, 1, 1]], rtol=0, atol=1e-3)


def test_a_gate_behind_a_swish_reads_no_more() -> None:
    """As in squeeze and excitation: the product's other factor comes from the swish's mean."""
    nodes = [
        *SWISH,
        node("GlobalAveragePool", ["a"], ["m"]),
        node("Sigmoid", ["m"], ["gate"]),
        node("Mul", ["a", "gate"], ["y"]),
    ]
    graph = graph_of(nodes, ("N", 2, 3, 3))
    back = differentiate(graph, ["x"], "y")
    assert set(back.reads) == {"x", "gate"}
    x, g = normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1)
    a = x * sigmoid(x)
    gate = sigmoid(a.mean((2, 3), keepdims=True))
    squeezed = (g * a).sum((2, 3), keepdims=True) * gate * (1 - gate) / 9
    expected = (g * gate + squeezed) * swish_slope(x)
    # Sums of ten float32 numbers of the order of 1.
    np.testing.assert_allclose(gradients(graph, back, x, g)["x"], expected, rtol=0, atol=3e-6)


def test_the_sigmoid_of_a_swish_can_be_asked_for_too() -> None:
    graph = graph_of([SWISH[0], node("Mul", ["x", "s"], ["y"])], (1, 5))
    x, g = normal(1, 5), normal(1, 5, seed=1)
    found = gradients(graph, differentiate(graph, ["s", "x"], "y"), x, g)
    np.testing.assert_array_equal(found["s"], g * x)
    np.testing.assert_allclose(found["x"], g * swish_slope(x), rtol=0, atol=1e-6)


def test_a_sigmoid_with_other_readers_gathers_all_gradients() -> None:
    graph = graph_of([*SWISH, node("Add", ["a", "s"], ["y"])], (1, 5))
    x, g = normal(1, 5), normal(1, 5, seed=1)
    s = sigmoid(x)
    found = gradients(graph, differentiate(graph, ["x"], "y"), x, g)["x"]
    # Roundings of float32 numbers of the order of 1.
    np.testing.assert_allclose(found, g * (swish_slope(x) + s * (1 - s)), rtol=0, atol=1e-6)


def test_the_maximum_of_a_swish_is_found_in_the_kept_values() -> None:
    """A swish computed once more may be rounded otherwise, and equal no maximum."""
    graph = graph_of([*SWISH, node("GlobalMaxPool", ["a"], ["y"])], (1, 64, 8, 8))
    back = differentiate(graph, ["x"], "y")
    assert {"a", "y"} <= set(back.reads)
    x, g = normal(1, 64, 8, 8), np.ones((1, 64, 1, 1), np.float32)
    found = gradients(graph, back, x, g)["x"]
    assert ((found != 0).sum((2, 3)) == 1).all()


# Gradients that are the same along an axis.


@pytest.mark.parametrize("shape", [("N", 2, 3, 5), ("N", 2, "H", "W")])
def test_a_mean_is_spread_by_the_sum_that_it_meets(shape: tuple[Any, ...]) -> None:
    nodes = [
        node("Neg", ["x"], ["a"]),
        node("GlobalAveragePool", ["a"], ["m"]),
        node("Mul", ["a", "m"], ["y"]),
    ]
    graph = graph_of(nodes, shape)
    back = differentiate(graph, ["a"], "y")
    assert "Expand" not in operators(back)
    x, g = normal(2, 2, 3, 5), normal(2, 2, 3, 5, seed=1)
    m = -x.mean((2, 3), keepdims=True)
    expected = g * m + (g * -x).mean((2, 3), keepdims=True)
    # Sums of some fifteen float32 numbers of the order of 1.
    np.testing.assert_allclose(gradients(graph, back, x, g)["a"], expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("shape", [("N", 2, 3, 5), ("N", 2, "H", "W")])
@pytest.mark.parametrize("between", ["Identity", "Relu"])
def test_a_mean_that_meets_none_is_spread_over_its_input(
    shape: tuple[Any, ...], between: str
) -> None:
    nodes = [node(between, ["x"], ["a"]), node("GlobalAveragePool", ["a"], ["y"])]
    graph = graph_of(nodes, shape)
    x, g = np.abs(normal(2, 2, 3, 5)), normal(2, 2, 1, 1, seed=1)
    found = gradients(graph, differentiate(graph, ["x", "a"], "y"), x, g)
    for name in ("x", "a"):
        # One division in float32 and in float64.
        np.testing.assert_allclose(found[name], np.broadcast_to(g / 15, x.shape), rtol=1e-6)


# As files.


@pytest.mark.parametrize("opset", [18, 21])
def test_an_exported_gradient_is_plain_onnx(opset: int, tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", ["p", "d"], ["e"], group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Sigmoid", ["e"], ["s"]),
        node("Mul", ["e", "s"], ["a"]),
        node("GlobalAveragePool", ["a"], ["m"]),
        node("Flatten", ["m"], ["y"]),
    ]
    weights = {"w": normal(4, 3, 3, 3), "d": normal(4, 1, 3, 3, seed=1)}
    graph = graph_of(nodes, ("N", 3, 16, 16), weights)
    data = graph.source.parse().SerializeToString()
    path = gm.export(data, tmp_path / "gradient.onnx", kind="gradient", layer="c", opset=opset)
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert {made.domain for made in file.graph.node} == {""}
    assert "SpaceToDepth" in {made.op_type for made in file.graph.node}
    x, g = normal(2, 3, 16, 16, seed=2), normal(2, 4, seed=3)
    native = gradients(graph, differentiate(graph, ["c"], "y"), x, g)["c"]
    found = make_session(file.SerializeToString()).run(["gradients"], {"x": x, "cotangent": g})[0]
    # The same sums of float32 numbers of the order of 1, fused otherwise.
    np.testing.assert_allclose(found, native, rtol=0, atol=3e-6)
