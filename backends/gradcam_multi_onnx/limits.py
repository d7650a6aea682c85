"""Sizes that a small file can ask for: refused before anything allocates them.

A constant of a few bytes can stand for terabytes (ConstantOfShape, Expand, Tile, a chain of Concat
that doubles), and ONNX Runtime computes constants when it loads a model.
"""

from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from gradcam_multi.errors import GradcamError, ModelFileError, UnsupportedError
from gradcam_multi_onnx.inference import Type, infer
from gradcam_multi_onnx.order import reads
from gradcam_multi_onnx.skeleton import SMALL

if TYPE_CHECKING:
    from gradcam_multi_onnx.graph import Graph

MOST_CONSTANT = 1 << 28
"""Elements of a constant that nodes compute: 1 GiB of float32."""

MOST_CONSTANTS = 1 << 29
"""Elements of all such constants of a model together."""

MOST_VALUE = 1 << 30
"""Elements of any other value, in one run: 4 GiB of float32."""

_GROWING = {
    "ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "RandomNormal", "RandomUniform",
    "Range", "Resize", "Tile", "Upsample",
}  # fmt: skip
"""Operators whose result is as large as the values of an input say."""

_SHRINKING = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}
"""Operators whose result's size shows in a run only, but is bounded by the input's."""

_TRAPPED = {TensorProto.INT32, TensorProto.INT64}
_MOST_TRIPS = 1_000_000


def check_constants(graph: "Graph") -> None:
    """Raise UnsupportedError where a model computes constants that are absurdly large.

    Also ModelFileError where computing them would divide by zero, or end the process.
    """
    total = 0
    for node in graph.nodes:
        _check_trips(graph, node)
        if not all(graph.constant(name) for name in node.output):
            continue
        _check_division(graph, node)
        if any(_size(graph.types.get(name)) is None for name in node.output if name):
            _measure(graph, node)
        for name in filter(None, node.output):
            size = _size(graph.types.get(name))
            if size is None and node.op_type in _GROWING:
                raise _refused(graph, node, "a constant whose size cannot be told beforehand")
            total += size or 0
            if (size or 0) > MOST_CONSTANT or total > MOST_CONSTANTS:
                raise _refused(graph, node, f"constants of {total} elements")


def check_values(graph: "Graph", types: Mapping[str, Type], what: str) -> None:
    """Raise UnsupportedError where a value of a run would be absurdly large; `what` is run."""
    for node in graph.nodes:
        for name in node.output:
            size = _size(types.get(name), least=True)
            if size is not None and size > MOST_VALUE:
                raise _refused(graph, node, f"a value of {size} elements for {what}")


def _size(kind: Type | None, *, least: bool = False) -> int | None:
    """Return the number of elements, or None where it is not known; free extents may count as 1."""
    if kind is None or kind.shape is None:
        return None
    extents = [n for n in kind.shape if isinstance(n, int)]
    return prod(extents) if least or len(extents) == len(kind.shape) else None


def _refused(graph: "Graph", node: NodeProto, what: str) -> UnsupportedError:
    name = node.name or next(iter(node.output), "")
    return UnsupportedError(
        f"{node.op_type} {name!r} of {graph.source.name} would make {what}; if that is meant, "
        "store it as an initialiser or explain a smaller input"
    )


def _arrays(graph: "Graph", names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return those constants that are known to be small."""
    known = [
        n for n in names if graph.constant(n) and (_size(graph.types.get(n)) or 1 + SMALL) <= SMALL
    ]
    return graph.arrays(known)


def _measure(graph: "Graph", node: NodeProto) -> None:
    """Learn the types of a constant's results from the values of its inputs."""
    inputs = reads(node)
    arrays = _arrays(graph, inputs)
    others = [
        onnx.helper.make_tensor_value_info(name, kind.dtype, kind.shape)
        for name in inputs
        if name not in arrays and (kind := graph.types.get(name)) is not None
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    body = onnx.helper.make_graph([node], "one", others, outputs, tensors)
    found = infer(graph.model(body))
    graph.types.update({v.name: found[v.name] for v in outputs if v.name in found})
    if node.op_type in _SHRINKING and len(arrays) == len(inputs):
        for name, array in graph.arrays(v.name for v in outputs).items():
            dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.types[name] = Type(dtype, array.shape)


def _check_division(graph: "Graph", node: NodeProto) -> None:
    # The processor traps on the one quotient of integers that has no representation.
    if node.op_type not in ("Div", "Mod") or graph.type(node.output[0]).dtype not in _TRAPPED:
        return
    arrays = _arrays(graph, node.input)
    if len(arrays) < len(set(node.input)):
        return
    dividend, divisor = (arrays[name] for name in node.input)
    if dividend.dtype.kind != "i" or divisor.dtype.kind != "i":
        return
    least = np.iinfo(dividend.dtype).min
    if (divisor == 0).any() or ((divisor == -1).any() and (dividend == least).any()):
        raise ModelFileError(
            f"{graph.source.name} is damaged: {node.op_type} {node.output[0]!r} divides "
            "constants that have no quotient; export the model again"
        )


def _check_trips(graph: "Graph", node: NodeProto) -> None:
    if node.op_type != "Loop" or not node.input or not node.input[0]:
        return
    try:
        trips = _arrays(graph, node.input[:1]).get(node.input[0])
    except GradcamError:
        return
    if trips is not None and trips.size and int(trips.max()) > _MOST_TRIPS:
        endless = len(node.input) < 2 or not node.input[1]
        if endless:
            raise _refused(graph, node, f"{int(trips.max())} rounds of a loop")
