"""Cotangents held as a few slices, against the same gradients with their zeros written out."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

import onnx
from gradcam_multi_onnx.autodiff import narrow
from gradcam_multi_onnx.autodiff.walk import Gradient, differentiate
from gradcam_multi_onnx.session import make_session
from small_graphs import Arrays, gradients, graph_of, node, normal

BATCH, TOKENS, WIDTH, HEADS = 2, 8, 6, 2
Nodes = list[onnx.NodeProto]

WEIGHTS: Arrays = {
    "w": normal(WIDTH, WIDTH, seed=1), "v": normal(WIDTH, WIDTH, seed=2),
    "u": normal(WIDTH, WIDTH, seed=3),
    "scale": normal(WIDTH, seed=4), "bias": normal(WIDTH, seed=5),
    "mix": normal(5, TOKENS, seed=6), "row": normal(TOKENS, 1, seed=7), "half": np.float32(0.5),
    "one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32), "first": np.array(0),
    "third": np.array(3), "from": np.array([2]), "to": np.array([4]), "along": np.array([1]),
    "heads": np.array([0, TOKENS, HEADS, WIDTH // HEADS]), "tokens": np.array([0, TOKENS, WIDTH]),
    "flat": np.array([0, TOKENS * WIDTH]), "start": np.array([0]), "stop": np.array([WIDTH]),
    "last": np.array([-1]), "folded": np.array([-1, WIDTH]),
    "batches": np.array([-1, TOKENS, WIDTH]), "middle": np.array([3]),
    "around": np.array([0, 0, 1, 0, 0, 0]),
}  # fmt: skip


def token(of: str, to: str = "y", which: str = "first") -> onnx.NodeProto:
    return node("Gather", [of, which], [to], axis=1)


def split(of: str, to: str, order: list[int]) -> Nodes:
    """(N, T, C) as heads, its axes in an order."""
    return [
        node("Reshape", [of, "heads"], [f"{to}_apart"]),
        node("Transpose", [f"{to}_apart"], [to], perm=order),
    ]


MLP = [
    node("LayerNormalization", ["x", "scale", "bias"], ["n"]),
    node("MatMul", ["n", "w"], ["h"]),
    node("Add", ["h", "bias"], ["a"]),
    node("Erf", ["a"], ["e"]),
    node("Add", ["e", "one"], ["s"]),
    node("Mul", ["a", "s"], ["p"]),
    node("Mul", ["p", "half"], ["q"]),
    node("MatMul", ["q", "v"], ["m"]),
    node("Add", ["x", "m"], ["r"]),
]
ATTENTION = [
    node("MatMul", ["x", "w"], ["xq"]), node("MatMul", ["x", "v"], ["xk"]),
    node("MatMul", ["x", "u"], ["xv"]),
    *split("xq", "Q", [0, 2, 1, 3]), *split("xk", "K", [0, 2, 3, 1]),
    *split("xv", "V", [0, 2, 1, 3]),
    node("MatMul", ["Q", "K"], ["logits"]), node("Softmax", ["logits"], ["A"]),
    node("MatMul", ["A", "V"], ["o"]), node("Transpose", ["o"], ["back"], perm=[0, 2, 1, 3]),
    node("Reshape", ["back", "tokens"], ["joined"]),
]  # fmt: skip
NARROW: dict[str, Nodes] = {
    "mlp": [*MLP, token("r")],
    "attention": [*ATTENTION, token("joined")],
    "two tokens": [*MLP, node("Slice", ["r", "from", "to", "along"], ["y"])],
    "relu": [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["a"]), token("a")],
    "selection": [
        node("MatMul", ["x", "w"], ["h"]), node("Greater", ["h", "zero"], ["c"]),
        node("Exp", ["h"], ["f"]), node("Where", ["c", "f", "zero"], ["a"]), token("a"),
    ],
    "division": [
        node("Exp", ["x"], ["f"]), node("MatMul", ["x", "w"], ["h"]),
        node("Div", ["h", "f"], ["a"]), token("a"),
    ],
    "a factor a token": [node("Mul", ["x", "row"], ["a"]), token("a")],
    "the same axis in front": [  # (N, T, C) -> (N T, C) loses the axis, (N, T, 1, C) keeps it
        node("Unsqueeze", ["x", "along"], ["wide"]), node("Mul", ["wide", "bias"], ["a"]),
        node("Squeeze", ["a", "along"], ["b"]), token("b"),
    ],
    "padding of another axis": [
        node("MatMul", ["x", "w"], ["h"]),
        node("Slice", ["h", "start", "middle", "last"], ["part"]), token("part"),
    ],
}  # fmt: skip
WHOLE: dict[str, Nodes] = {
    "two spans": [
        *MLP, token("r", "t0"), token("r", "t3", "third"), node("Mul", ["t0", "t3"], ["y"]),
    ],
    "a token and the mean": [
        *MLP, token("r", "t"), node("ReduceMean", ["r", "along"], ["mean"], keepdims=0),
        node("Mul", ["t", "mean"], ["y"]),
    ],
    "softmax over the tokens": [
        node("MatMul", ["x", "w"], ["h"]), node("Softmax", ["h"], ["s"], axis=1), token("s"),
    ],
    "tokens mixed from the left": [  # only its row of the matrix is read, and all tokens get some
        node("MatMul", ["mix", "x"], ["h"]), token("h"),
    ],
    "another axis": [
        node("Reshape", ["x", "flat"], ["long"]),
        node("Slice", ["long", "start", "stop", "along"], ["y"]),
    ],
    "tokens and items in one axis": [
        node("MatMul", ["x", "w"], ["h"]), node("Reshape", ["h", "folded"], ["rows"]),
        node("Mul", ["rows", "bias"], ["a"]), node("Reshape", ["a", "batches"], ["b"]), token("b"),
    ],
    "a result that nobody cuts": [node("Pad", ["x", "around"], ["p"]), token("p")],
}  # fmt: skip


@pytest.mark.parametrize("batch", [BATCH, "N"])
@pytest.mark.parametrize("name", [*NARROW, *WHOLE])
def test_gradients_are_those_with_zeros(
    name: str, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules that run on slices are compared with central differences elsewhere."""
    shape = (batch, TOKENS, WIDTH)
    x, graph = normal(BATCH, TOKENS, WIDTH), graph_of({**NARROW, **WHOLE}[name], shape, WEIGHTS)
    back = differentiate(graph, ["x"], "y")
    monkeypatch.setattr(narrow, "_FEW", TOKENS * WIDTH + 1)
    written_out = differentiate(graph, ["x"], "y")
    y = make_session(graph.source.parse().SerializeToString()).run(["y"], {"x": x})[0]
    g = normal(*y.shape, seed=9)
    found = gradients(graph, back, x, g)["x"]
    expected = gradients(graph, written_out, x, g)["x"]
    assert np.any(expected)
    # The same numbers without the zeros between them: some roundings in other orders.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def rows(back: Gradient) -> list[int]:
    """The rows of each matrix product, that of the result's last axis but one."""
    inferred = onnx.shape_inference.infer_shapes(back.model, data_prop=True).graph
    shapes = {
        v.name: v.type.tensor_type.shape.dim for v in [*inferred.value_info, *inferred.output]
    }
    products = [each for each in back.model.graph.node if each.op_type == "MatMul"]
    return [shapes[each.output[0]][-2].dim_value for each in products]


def test_only_the_tokens_that_count_are_multiplied() -> None:
    shape = (BATCH, TOKENS, WIDTH)
    assert rows(differentiate(graph_of(NARROW["mlp"], shape, WEIGHTS), ["x"], "y")) == [1, 1]
    back = differentiate(graph_of(NARROW["attention"], shape, WEIGHTS), ["x"], "y")
    # Of O = A V: dA of one query, dV of all keys. Of A = QK': dQ of the query, dK of all (C/H, T).
    # Then the weights of V, Q and K: the query's one token, all of the others.
    assert sorted(rows(back)) == sorted([1, TOKENS, 1, WIDTH // HEADS, TOKENS, 1, TOKENS])


def test_nothing_is_written_out_before_it_must() -> None:
    back = differentiate(graph_of(NARROW["mlp"], ("N", TOKENS, WIDTH), WEIGHTS), ["x"], "y")
    names = [each.op_type for each in back.model.graph.node]
    assert names.count("Pad") == 1
    assert names[-2:] == ["Pad", "Identity"]


def test_half_of_an_axis_is_not_few() -> None:
    nodes = [*MLP, node("Slice", ["r", "start", "to", "along"], ["y"])]
    back = differentiate(graph_of(nodes, (BATCH, TOKENS, WIDTH), WEIGHTS), ["x"], "y")
    assert rows(back) == [TOKENS, TOKENS]
