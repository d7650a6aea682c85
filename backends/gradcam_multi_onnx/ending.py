"""The softmax or sigmoid that a model ends in, behind which its logits lie."""

from typing import Literal

from gradcam_multi_onnx.graph import FLOATS, Graph

_ENDINGS: dict[str, Literal["softmax", "sigmoid"]] = {
    "LogSoftmax": "softmax",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
}
_KEEPING = {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""Operators that keep every element in its place in memory."""


def logits_of(graph: Graph, output: str) -> tuple[str, Literal["softmax", "sigmoid"] | None]:
    """Return the value that holds an output's logits, and the function between the two.

    In a model quantised by pairs of QuantizeLinear and DequantizeLinear it is the value before they
    round it: a top score often is the highest integer, at which it would have no gradient.
    """
    name = _before_rounding(graph, output)
    while (node := graph.producer.get(name)) is not None and node.output[0] == name:
        if node.domain not in ("", "ai.onnx"):
            break
        if node.op_type in _ENDINGS and not graph.constant(node.input[0]):
            return _before_rounding(graph, node.input[0]), _ENDINGS[node.op_type]
        kind = graph.types.get(node.input[0]) if node.input else None
        if node.op_type not in _KEEPING or (kind is not None and kind.dtype not in FLOATS):
            break
        name = _before_rounding(graph, node.input[0])
    return _before_rounding(graph, output), None


def _before_rounding(graph: Graph, name: str) -> str:
    """Return the value that pairs of QuantizeLinear and DequantizeLinear round to this one."""
    while True:
        back = graph.producer.get(name)
        there = graph.producer.get(back.input[0]) if back and back.input else None
        if back is None or there is None or graph.constant(name):
            return name
        if (there.op_type, back.op_type) != ("QuantizeLinear", "DequantizeLinear"):
            return name
        name = there.input[0]
