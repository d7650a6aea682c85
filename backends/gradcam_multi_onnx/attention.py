"""The operators of attention, taken apart: what holds the values, and how heads lie in it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from gradcam_multi.heads import einsum_heads, moved
from gradcam_multi_onnx.graph import Graph, domain_of
from gradcam_multi_onnx.session import as_float

AnyArray = NDArray[Any]
Lay = Callable[[AnyArray], AnyArray]

_HANDED = ("Cast", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear", "Reshape")
"""Operators that hand weights on as they are."""


class Heads(NamedTuple):
    """The value that holds an attention's values, and what lays arrays out, (..., tokens, D).

    `values` is for that value, `result` for a gradient of the attention's result.
    """

    read: str
    values: Lay
    result: Lay


def heads_of(graph: Graph, name: str) -> Heads | None:
    """Return the heads of the attention that makes a value.

    None for an operator that is not known, and for a product that does not read a softmax.
    """
    node = graph.producer.get(name)
    rule = None if node is None else _RULES.get((domain_of(node.domain), node.op_type))
    return None if rule is None or node is None else rule(graph, node)


def _product(graph: Graph, node: NodeProto) -> Heads | None:
    if any(_attribute(node, key, 0) for key in ("transA", "transB", "transBatchA", "transBatchB")):
        return None
    scale = _attribute(node, "alpha", 1.0)
    weighed = _softmax(graph, node.input[0]) and scale == 1
    return Heads(node.input[1], _same, _same) if weighed else None


def _einsum(graph: Graph, node: NodeProto) -> Heads | None:
    equation = _attribute(node, "equation", b"").decode()
    for weights in range(len(node.input)):
        axes = einsum_heads(equation, weights)
        last = axes is not None and axes.weights[0][-1] == axes.weights[1][-1]
        if axes is not None and last and _softmax(graph, node.input[weights]):
            return Heads(
                node.input[1 - weights], _Einsum(moved(axes.values)), _Einsum(moved(axes.result))
            )
    return None


class _Einsum:
    def __init__(self, equation: str) -> None:
        self.equation = equation

    def __call__(self, array: AnyArray) -> AnyArray:
        made: AnyArray = np.einsum(self.equation, array)
        return made


def _standard(graph: Graph, node: NodeProto) -> Heads | None:
    """ONNX's own Attention: queries, keys and values, with heads apart or in the channels."""
    queries, heads = _attribute(node, "q_num_heads", 0), _attribute(node, "kv_num_heads", 0)
    if len(node.input) > 4 and node.input[4]:  # keys of earlier steps
        return None

    def repeated(x: AnyArray, times: int) -> AnyArray:
        return np.repeat(x, times, 1) if times > 1 else x

    if queries and heads:
        return Heads(
            node.input[2],
            lambda x: repeated(_split(x, heads), queries // heads),
            lambda g: _split(g, queries),
        )
    sizes = [graph.type(name).shape for name in (node.input[0], node.input[2])]
    counts = [shape[1] for shape in sizes if shape is not None and len(shape) == 4]
    if len(counts) != 2 or not all(isinstance(n, int) for n in counts):
        return None
    times = int(counts[0]) // int(counts[1])
    return Heads(node.input[2], lambda x: repeated(x, times), _same)


def _multi_head(graph: Graph, node: NodeProto) -> Heads | None:
    """ONNX Runtime's, of projected queries, keys and values, perhaps with their bias."""
    heads, given = _attribute(node, "num_heads", 0), [*node.input, *[""] * 8]
    if not heads or any(given[6:8]):  # keys of earlier steps
        return None
    bias = _constant(graph, given[3]) if given[3] else None
    if given[3] and bias is None:
        return None
    place = 2 if given[2] else 1 if given[1] else 0

    def values(x: AnyArray) -> AnyArray:
        if x.ndim == 5:  # (N, keys, heads, 2 or 3, D): keys and values, or queries too
            x = np.moveaxis(x[:, :, :, -1], 1, 2)
        elif x.ndim == 3:
            x = _split(x, heads)
        own = 0 if bias is None else bias[-heads * x.shape[-1] :].reshape(heads, 1, -1)
        return x + own

    return Heads(given[place], values, lambda g: _split(g, heads))


def _packed(graph: Graph, node: NodeProto) -> Heads | None:
    """ONNX Runtime's, with the projections inside."""
    heads, given = _attribute(node, "num_heads", 0), [*node.input, *[""] * 8]
    weights = _constant(graph, given[1])
    bias = _constant(graph, given[2]) if given[2] else np.zeros(1, np.float32)
    if not heads or weights is None or bias is None or given[4]:
        return None
    width = (_attribute(node, "qkv_hidden_sizes", None) or [weights.shape[1] // 3])[-1]
    own, added = weights[:, -width:], bias[-width:]
    return Heads(
        given[0],
        lambda x: _split(as_float(x) @ own + added, heads),
        lambda g: _split(g, heads),
    )


def _softmax(graph: Graph, name: str) -> bool:
    """Whether a value is a softmax over its last axis, handed on."""
    while (node := graph.producer.get(name)) is not None:
        if node.op_type == "Softmax":
            shape, last = graph.type(node.output[0]).shape, _attribute(node, "axis", -1)
            return last == -1 or (shape is not None and last == len(shape) - 1)
        if node.op_type == "Where":  # NaN, where a row is masked as a whole, becomes 0
            name = node.input[2] if graph.constant(node.input[1]) else node.input[1]
        elif node.op_type in _HANDED:
            name = node.input[0]
        else:
            return False
    return False


def _split(x: AnyArray, heads: int) -> AnyArray:
    """(N, tokens, heads * D) as (N, heads, tokens, D)."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def _same(x: AnyArray) -> AnyArray:
    return x


def _constant(graph: Graph, name: str) -> AnyArray | None:
    return as_float(graph.arrays([name])[name]) if graph.constant(name) else None


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    found = (a for a in node.attribute if a.name == name)
    return next((onnx.helper.get_attribute_value(a) for a in found), default)


_MICROSOFT = "com.microsoft"
_RULES: dict[tuple[str, str], Callable[[Graph, NodeProto], Heads | None]] = {
    ("", "MatMul"): _product,
    ("", "Einsum"): _einsum,
    ("", "Attention"): _standard,
    (_MICROSOFT, "FusedMatMul"): _product,
    (_MICROSOFT, "MultiHeadAttention"): _multi_head,
    (_MICROSOFT, "Attention"): _packed,
}
"""By domain and operator."""
