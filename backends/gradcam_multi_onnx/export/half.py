"""Half precision in a file, rounded where the model is that is explained.

On a CPU, ONNX Runtime computes most half-precision operators in float32 and rounds only where a
value is kept in half precision. But an operator that ONNX defines by others since some opset, Relu
since 18, is replaced by those where it has no half-precision kernel: the convolution before it is
then rounded, and can no longer be fused with it. A cell at the edge of a ReLU may fall to the other
side, and a map that hangs on a few such cells is another one.
"""

from collections.abc import Iterable, Mapping

import onnx
from onnx import NodeProto, TensorProto

from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Type

_FREE = "InsertedPrecisionFreeCast_"
"""What ONNX Runtime calls casts to half precision that it may leave out again, its own."""

_MOVERS = {
    "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose",
    "Unsqueeze",
}  # fmt: skip
"""With half-precision kernels on a CPU. One alone among others without is run in float32, too."""


_SPLIT = float((1 << 13) + 1)  # of float32's 24 bits, 13 are cut off to leave half precision's 11


def rounded(value: Value) -> Value:
    """Return a half-precision value that was widened, rounded to half precision for certain.

    ONNX Runtime leaves out a cast to half precision of its own together with the one back, but
    which of two cells is a pooling's maximum may hang on the rounding. In arithmetic nothing can be
    left out (Dekker, A floating-point technique for extending the available precision, 1971).
    """
    b, spread = value.builder, value * _SPLIT
    infinite = b.map("IsInf", value, dtype=TensorProto.BOOL)  # as masks: the difference is NaN
    return b.where(infinite, value, spread - (spread - value))


def widen_converted(
    model: onnx.ModelProto, types: Mapping[str, Type], own: int, kept: Iterable[str]
) -> None:
    """Put casts around what the file's opset would have rounded, in place.

    `types` are those of the model's values, `own` is the opset that it came in; values in `kept`
    stay in half precision, as those that a trace of the model keeps do.
    """
    opset = next(o.version for o in model.opset_import if not o.domain)
    if own >= opset:
        return
    graph, half = model.graph, {n for n, kind in types.items() if kind.dtype == TensorProto.FLOAT16}
    rounded = {
        node.output[0] for node in graph.node
        if half.intersection(node.input) and len(node.output) == 1
        and _by_others(node, opset) and not _by_others(node, own)
    }  # fmt: skip
    whole = set(kept) | {value.name for value in graph.output}
    alone = _alone(graph, half) - whole
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] in rounded or node.output[0] in alone:
            nodes.extend(_around(node, half, taken))
        else:
            nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _by_others(node: NodeProto, opset: int) -> bool:
    """Return whether an operator is defined by others in some opset."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return True  # it came with the conversion
    known = (*schema.function_opset_versions, *schema.context_dependent_function_opset_versions)
    return any(version <= opset for version in known)


def _alone(graph: onnx.GraphProto, half: set[str]) -> set[str]:
    """Return the half-precision results of operators that move values, none next to another."""
    moved = {node.output[0] for node in graph.node if node.op_type in _MOVERS}
    chained = {
        name for node in graph.node if node.op_type in _MOVERS
        for other in node.input if other in moved for name in (other, node.output[0])
    }  # fmt: skip
    return (moved - chained) & half


def _around(node: NodeProto, half: set[str], taken: set[str]) -> list[NodeProto]:
    """Return a node in float32 between casts."""
    copy, nodes = NodeProto(), []
    copy.CopyFrom(node)

    def fresh(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    def cast(one: str, other: str, kind: int) -> NodeProto:
        name = _FREE + (one if kind == TensorProto.FLOAT16 else other)
        return onnx.helper.make_node("Cast", [one], [other], name, to=kind)

    for place, name in enumerate(node.input):
        if name in half:
            copy.input[place] = fresh(f"{name}_wide")
            nodes.append(cast(name, copy.input[place], TensorProto.FLOAT))
    copy.output[0] = fresh(f"{node.output[0]}_wide")
    return [*nodes, copy, cast(copy.output[0], node.output[0], TensorProto.FLOAT16)]
