"""Where the channels of each value are, found from the operators that fix it."""

from collections.abc import Iterator

import onnx
from onnx import NodeProto

from gradcam_multi_onnx.graph import Graph

_FIRST = {
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace",
    "FusedConv", "GlobalAveragePool", "GlobalMaxPool", "GroupNormalization",
    "InstanceNormalization", "LRN", "LpPool", "MaxPool", "PRelu", "QLinearConv", "SpaceToDepth",
    "Upsample",
}  # fmt: skip
"""Operators that take and make channels first, whatever is around them."""

_LAST = {"LayerNormalization", "MatMul"}
"""Operators that commonly work on the last axis; weaker evidence, used where there is no other."""


def channel_axes(graph: Graph) -> dict[str, int]:
    """Return the channel axis of every value that has a batch, channels and a grid."""
    ranks = {
        name: len(kind.shape) for name, kind in graph.types.items()
        if kind.shape is not None and len(kind.shape) >= 3
    }  # fmt: skip
    found: dict[str, int] = {}
    for anchors in (_first(graph), _last(graph)):
        for name, axis in anchors:
            if name in ranks and name in graph.variable:
                found.setdefault(name, axis % ranks[name])
        _spread(graph, ranks, found)
    for name in graph.variable & set(ranks):
        found.setdefault(name, 1)
    return found


def anchored(graph: Graph, name: str) -> bool:
    """Return whether a value is read or made by an operator that takes channels first."""
    ends = [*graph.readers.get(name, ()), *filter(None, [graph.producer.get(name)])]
    return any(node.op_type in _FIRST for node in ends)


def _first(graph: Graph) -> Iterator[tuple[str, int]]:
    for node in graph.nodes:
        if node.op_type in _FIRST:
            yield node.input[0], 1
            yield node.output[0], 1


def _last(graph: Graph) -> Iterator[tuple[str, int]]:
    for node in graph.nodes:
        weighted = len(node.input) > 1 and graph.constant(node.input[1])
        if node.op_type in _LAST and weighted and _attribute(node, "axis", -1) == -1:
            yield node.input[0], -1
            yield node.output[0], -1


def _attribute(node: NodeProto, name: str, default: object) -> object:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _spread(graph: Graph, ranks: dict[str, int], found: dict[str, int]) -> None:
    # Forward and backward until nothing changes; a sweep settles whole chains, so few are needed.
    before = -1
    while before < len(found):
        before = len(found)
        for node in graph.nodes:
            _step(graph, node, ranks, found, forward=True)
        for node in reversed(graph.nodes):
            _step(graph, node, ranks, found, forward=False)


def _step(
    graph: Graph, node: NodeProto, ranks: dict[str, int], found: dict[str, int], *, forward: bool
) -> None:
    if not node.output or node.output[0] not in ranks:
        return
    rank, result = ranks[node.output[0]], node.output[0]
    peers = [n for n in node.input if ranks.get(n) == rank and n in graph.variable]
    if node.op_type == "Transpose" and peers:
        order = list(_attribute(node, "perm", range(rank)[::-1]))  # type: ignore[call-overload]
        if forward and peers[0] in found:
            found.setdefault(result, order.index(found[peers[0]]))
        elif not forward and result in found:
            found.setdefault(peers[0], order[found[result]])
    elif node.op_type not in ("Reshape", "Gather", "Squeeze", "Unsqueeze", "MatMul", "Einsum"):
        if forward:
            for name in peers:
                if name in found:
                    found.setdefault(result, found[name])
        elif result in found:
            for name in peers:
                found.setdefault(name, found[result])
