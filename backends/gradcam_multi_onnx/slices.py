"""Slices of axes that have no cells, found before native shape inference meets one.

Inference in onnx and ONNX Runtime clamps a Slice's bounds to its axis with `std::clamp`, which in
their hardened builds ends the process where the axis is shorter than zero, or empty and read
backwards. Only damaged models have such axes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from gradcam_multi.errors import ModelFileError
from gradcam_multi_onnx.order import reads

_POSITIVE = {
    "Abs", "Add", "And", "BatchNormalization", "Cast", "Clip", "Concat", "Constant",
    "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Flatten", "Gather",
    "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "HardSigmoid", "HardSwish",
    "Identity", "InstanceNormalization", "LRN", "LayerNormalization", "LeakyRelu", "Less", "Log",
    "LogSoftmax", "MatMul", "Max", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "PRelu", "Pow",
    "QuantizeLinear", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid",
    "Softmax", "Softplus", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze",
    "Where",
}  # fmt: skip
"""Operators whose result has cells along every axis if their inputs have."""

_WINDOWED = {"AveragePool", "Conv", "LpPool", "MaxPool"}
_MOST_PAD = 1 << 31
_MOST_ROUNDS = 200

Constants = Mapping[str, NDArray[Any]]


def check_slices(model: onnx.ModelProto, name: str, *, numbers: bool = True) -> None:
    """Raise ModelFileError where a Slice would read an axis of fewer than no cells.

    Slices are let into inference one round after the other, once what they read is known to be
    sound without them; `name` is what the message calls the model. `numbers` is whether inference
    follows the numbers of shapes.
    """
    graph = model.graph
    if not any(node.op_type == "Slice" for node in graph.node):
        return
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    rounds = _rounds(graph, constants)
    last = max(rounds.values())
    if last > _MOST_ROUNDS:
        raise ModelFileError(f"{name} slices results of slices more than {_MOST_ROUNDS} times deep")
    for turn in range(last + 1):
        left_out = {place for place, first in rounds.items() if first >= turn}
        known = _extents(model, left_out, numbers)
        for place in (place for place, first in rounds.items() if first == turn):
            node = graph.node[place]
            extents = known.get(node.input[0], [])
            least = 1 if _backwards(node, constants) else 0
            if any(extent < least for extent in extents):
                raise ModelFileError(
                    f"{name} is damaged: Slice {node.name or node.output[0]!r} reads a value with "
                    f"axes of {extents} cells; export the model again"
                )


def _rounds(graph: onnx.GraphProto, constants: Constants) -> dict[int, int]:
    """Return in which round each Slice can be looked at, by its place in the graph."""
    sliced: dict[str, int] = {}  # the last round of the slices behind a value
    sound: dict[str, int] = {}  # the round in which its extents say whether it is sound
    rounds = {}
    for place, node in enumerate(graph.node):
        names = reads(node)
        latest = max((sliced.get(name, -1) for name in names), default=-1)
        turn = max((sound.get(name, 0) for name in names), default=0)
        if node.op_type == "Slice":
            # What another slice left empty does no harm unless it is read backwards.
            turn = max(turn, latest + 1) if _backwards(node, constants) else turn
            rounds[place], latest = turn, max(latest, turn)
        elif not _keeps_cells(node, constants):
            turn = max(turn, latest + 1)
        for name in node.output:
            sliced[name], sound[name] = latest, turn
    return rounds


def _extents(model: onnx.ModelProto, left_out: set[int], numbers: bool) -> dict[str, list[int]]:
    """Return known extents by value, with some slices taken for the whole."""
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    del trial.graph.value_info[:]
    for place in left_out:
        node = trial.graph.node[place]
        del node.input[1:]
        node.op_type = "Identity"
        node.ClearField("attribute")
    for output in trial.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        found = onnx.shape_inference.infer_shapes(trial, data_prop=numbers).graph
    except Exception:  # what inference refuses never reaches a Slice
        return {}
    values = (*found.value_info, *found.output, *found.input)
    extents = {
        value.name: [
            d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")
        ]
        for value in values
    }
    return extents | {tensor.name: list(tensor.dims) for tensor in found.initializer}


def _backwards(node: NodeProto, constants: Constants) -> bool:
    if len(node.input) < 5 or not node.input[4]:
        return False
    steps = constants.get(node.input[4])
    return steps is None or bool((steps < 0).any())


def _keeps_cells(node: NodeProto, constants: Constants) -> bool:
    if node.op_type in _POSITIVE:
        return True
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.type}
    if node.op_type == "Pad":
        given = constants.get(node.input[1]) if len(node.input) > 1 else attributes.get("pads")
        return given is not None and bool(
            (np.asarray(given) >= 0).all() and (np.asarray(given) < _MOST_PAD).all()
        )
    if node.op_type in _WINDOWED:
        return _fits(node, attributes, constants)
    return False


def _fits(node: NodeProto, attributes: Mapping[str, Any], constants: Constants) -> bool:
    """Return whether a window fits even on a single cell."""
    kernel = attributes.get("kernel_shape")
    if kernel is None and len(node.input) > 1 and node.input[1] in constants:
        kernel = constants[node.input[1]].shape[2:]
    if kernel is None:
        return False
    rank = len(kernel)
    pads = attributes.get("pads") or [0] * (2 * rank)
    dilations = attributes.get("dilations") or [1] * rank
    if len(pads) != 2 * rank or len(dilations) != rank or min(pads, default=0) < 0:
        return False
    return all(
        pads[axis] + pads[axis + rank] >= (kernel[axis] - 1) * dilations[axis]
        and pads[axis] + pads[axis + rank] < _MOST_PAD
        for axis in range(rank)
    )
