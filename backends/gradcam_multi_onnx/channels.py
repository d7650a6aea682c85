"""Where the channels and the batch of each value are, found from the operators that fix them."""

from collections.abc import Iterator, Sequence
from math import prod

import onnx
from onnx import NodeProto

from gradcam_multi_onnx.graph import Dim, Graph, Shape

_FIRST = {
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace",
    "FusedConv", "GlobalAveragePool", "GlobalMaxPool", "GroupNormalization",
    "InstanceNormalization", "LRN", "LpPool", "MaxPool", "PRelu", "QLinearConv", "SpaceToDepth",
    "Upsample",
}  # fmt: skip
"""Operators that take and make channels first, whatever is around them."""

_LAST = {"FusedMatMul", "LayerNormalization", "MatMul", "RMSNormalization",
         "SimplifiedLayerNormalization", "SkipLayerNormalization"}  # fmt: skip
"""Operators that commonly work on the last axis; weaker evidence, used where there is no other."""

_RESHAPES = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_PRODUCTS = {"FusedMatMul", "MatMul"}
_APART = {"Einsum", "Gather", "GatherElements", "GatherND"}
"""Operators through which nothing is handed on."""


def channel_axes(graph: Graph) -> dict[str, int]:
    """Return the channel axis of every value that has a batch, channels and a grid."""
    ranks = {
        name: len(kind.shape) for name, kind in graph.types.items()
        if kind.shape is not None and len(kind.shape) >= 3
    }  # fmt: skip
    found: dict[str, int] = {}
    for anchors in (_first(graph), _last(graph), _inputs(graph)):
        for name, axis in anchors:
            if name in ranks and name in graph.variable:
                found.setdefault(name, axis % ranks[name])
        _spread(graph, ranks, found)
    _restore(graph, ranks, found)
    return found


def batch_axes(graph: Graph) -> dict[str, int]:
    """Return the batch axis of each value for which it can be followed from the inputs."""
    found = {value.name: 0 for value in graph.inputs}
    for node in graph.nodes:
        known = [n for n in node.input if n in found]
        if not known or node.op_type in _APART:
            continue
        for name in filter(None, node.output):
            after = graph.type(name).shape
            for source in known:
                before = graph.type(source).shape
                if before is not None and after is not None and name in graph.variable:
                    at = _batch_after(node, before, found[source], after)
                    if at is not None:
                        found[name] = at
                        break
    return found


def _batch_after(node: NodeProto, before: Shape, at: int, after: Shape) -> int | None:
    if node.op_type == "Transpose":
        return _order(node, len(before)).index(at)
    if node.op_type in _RESHAPES:  # it stays where nothing before it is split or joined
        return at if before[: at + 1] == after[: at + 1] else None
    return at if len(after) == len(before) or at == 0 else None


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
        weighted = len(node.input) > 1 and any(map(graph.constant, node.input[1:]))
        if node.op_type in _LAST and weighted and _attribute(node, "axis", -1) == -1:
            yield node.input[0], -1
            yield node.output[0], -1


def _inputs(graph: Graph) -> Iterator[tuple[str, int]]:
    for value in graph.inputs:
        yield value.name, 1


def _attribute(node: NodeProto, name: str, default: object) -> object:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _order(node: NodeProto, rank: int) -> list[int]:
    return list(_attribute(node, "perm", range(rank)[::-1]))  # type: ignore[call-overload,no-any-return]


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
    if node.op_type in _RESHAPES:
        source, target = (node.input[0], result) if forward else (result, node.input[0])
        if source in found and target in ranks and target in graph.variable:
            axis = _kept(graph.type(source).shape, found[source], graph.type(target).shape)
            if axis is not None:
                found.setdefault(target, axis)
    elif node.op_type == "Transpose" and peers:
        order = _order(node, rank)
        if forward and peers[0] in found:
            found.setdefault(result, order.index(found[peers[0]]))
        elif not forward and result in found:
            found.setdefault(peers[0], order[found[result]])
    elif node.op_type in _PRODUCTS:
        # Values have their channels last, and so has what they are summed to; but keys, turned
        # around, give weights, which have none.
        if forward and len(peers) == 2 and found.get(peers[1]) == rank - 1:
            found.setdefault(result, rank - 1)
    elif node.op_type not in _APART:
        if forward:
            for name in peers:
                if name in found:
                    for made in node.output:
                        if ranks.get(made) == rank:
                            found.setdefault(made, found[name])
        elif result in found:
            for name in peers:
                found.setdefault(name, found[result])


def _kept(before: Sequence[Dim] | None, axis: int, after: Sequence[Dim] | None) -> int | None:
    """Return where an axis is after a reshape; None where it was split or joined.

    It is kept where its extent and the number of cells behind it are.
    """
    if before is None or after is None:
        return None
    behind = before[axis + 1 :]
    for place in range(1, len(after)):
        rest = after[place + 1 :]
        numbers = all(isinstance(n, int) for n in (*behind, *rest))
        same = prod(map(int, behind)) == prod(map(int, rest)) if numbers else behind == rest
        if after[place] == before[axis] and same:
            return place
    return None


def _restore(graph: Graph, ranks: dict[str, int], found: dict[str, int]) -> None:
    """Find channels again that one reshape splits and a later one joins to the same shape."""
    lost: dict[str, tuple[tuple[Dim, ...], int]] = {}
    for node in graph.nodes:
        if not node.input or not node.output or node.output[0] in found:
            continue
        source, result = node.input[0], node.output[0]
        before, after = graph.type(source).shape, graph.type(result).shape
        if node.op_type in _RESHAPES and source in found and before is not None:
            lost[result] = (tuple(before[1:]), found[source])
        elif source in lost:
            shape, axis = lost[source]
            if result in ranks and after is not None and tuple(after[1:]) == shape:
                found[result] = axis
                _spread(graph, ranks, found)
            else:
                lost[result] = lost[source]
