"""What the operators of a graph add to each channel of their results."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from gradcam_multi.spec import Bias, Layer
from gradcam_multi_onnx.graph import Graph

_THIRD = ("Conv", "ConvTranspose", "Gemm")
"""Operators whose third input is added to the result."""


def biases_of(graph: Graph, layers: Iterable[Layer]) -> dict[str, Bias]:
    """Return the bias of each layer that a convolution, product, batch norm or addition makes.

    What is added or subtracted has to be constant, and the same for every cell of a channel.
    """
    listed = {layer.name: layer for layer in layers}
    found = {}
    for node in graph.nodes:
        layer = listed.get(node.output[0]) if node.output else None
        if layer is None or layer.shape is None:
            continue
        values = _values(graph, node, layer)
        if values is None:
            continue
        spread = np.broadcast_to(values, _channels(layer, len(values)))
        found[layer.name] = Bias(spread.astype(np.float32))
    return found


def _channels(layer: Layer, count: int) -> tuple[int]:
    known = layer.shape[_axis(layer)] if layer.shape else None
    return (known if isinstance(known, int) else count,)


def _axis(layer: Layer) -> int:
    """The channel axis; that of a row of numbers is the last."""
    rank = len(layer.shape or ())
    return (rank - 1 if layer.channel_axis is None else layer.channel_axis) % rank


def _values(graph: Graph, node: NodeProto, layer: Layer) -> NDArray[Any] | None:
    """What a node adds to each channel, (C,) or (1,); None where that is not known."""
    rank = len(layer.shape or ())
    if rank < 2 or (rank > 2 and layer.channel_axis is None):
        return None
    if node.op_type in _THIRD and len(node.input) == 3 and node.input[2]:
        beta = _attribute(node, "beta", 1.0) if node.op_type == "Gemm" else 1.0
        (added,) = _arrays(graph, node.input[2:]) or (None,)
        if added is None:
            return None
        return beta * added if added.ndim == 1 else _one_cell(beta * added, layer)
    if node.op_type == "BatchNormalization" and not _attribute(node, "training_mode", 0):
        arrays = _arrays(graph, node.input[1:5])
        if arrays is None:
            return None
        gamma, beta, mean, variance = (array.astype(np.float64) for array in arrays)
        moved: NDArray[Any] = beta - gamma * mean / np.sqrt(
            variance + _attribute(node, "epsilon", 1e-5)
        )
        return moved
    if node.op_type in ("Add", "Sub"):
        constant = [graph.constant(name) for name in node.input]
        if sum(constant) == 1:
            (added,) = _arrays(graph, [node.input[constant.index(True)]]) or (None,)
            minus = node.op_type == "Sub" and constant[1]
            return None if added is None else _one_cell(-added if minus else added, layer)
    return None


def _one_cell(added: NDArray[Any], layer: Layer) -> NDArray[Any] | None:
    """What broadcasts to a result, as (C,) or (1,); None where it differs between cells."""
    rank = len(layer.shape or ())
    whole = added.reshape((1,) * (rank - added.ndim) + added.shape)
    return whole.reshape(-1) if whole.size == whole.shape[_axis(layer)] else None


def _arrays(graph: Graph, names: Iterable[str]) -> list[NDArray[Any]] | None:
    """The values of constants; None where one is none."""
    wanted = list(names)
    if not all(graph.constant(name) for name in wanted):
        return None
    values = graph.arrays(wanted)
    return [values[name] for name in wanted]


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    found = (a for a in node.attribute if a.name == name)
    return next((onnx.helper.get_attribute_value(a) for a in found), default)
