"""What shape inference tells of a graph's values."""

from dataclasses import dataclass, replace
from math import prod

import onnx
from onnx import TensorProto

from gradcam_multi_onnx.slices import check_slices

Dim = int | str
Shape = tuple[Dim, ...]
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_FOLLOWED = {
    "Abs", "Add", "Cast", "Concat", "Div", "Gather", "Identity", "Max", "Min", "Mul", "Neg",
    "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",
}  # fmt: skip
_MOST_AXES, _MOST_NUMBERS = 64, 1 << 20
_HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True, slots=True)
class Type:
    """Element type and shape of a value; free extents are symbols; None where the rank is free."""

    dtype: int
    shape: Shape | None

    @property
    def floating(self) -> bool:
        """Whether gradients can flow through values of this type."""
        return self.dtype in FLOATS

    @property
    def public(self) -> tuple[int | None, ...] | None:
        """The shape with None for symbols."""
        if self.shape is None:
            return None
        return tuple(n if isinstance(n, int) else None for n in self.shape)

    @property
    def widened(self) -> "Type":
        """The same with half precision replaced by float32."""
        return replace(self, dtype=TensorProto.FLOAT) if self.dtype in _HALF else self


def infer(skeleton: onnx.ModelProto, name: str = "the model") -> dict[str, Type]:
    """Return element types and shapes by value name, as far as they can be told.

    Raises ModelFileError, calling the model `name`, where inference would end the process.
    """
    numbers = _bounded(skeleton.graph)
    check_slices(skeleton, name, numbers=numbers)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=numbers)
    except Exception:  # what inference cannot tell is learned from a run
        inferred = skeleton
    graph, types = inferred.graph, {}
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.type.HasField("tensor_type"):
            types[value.name] = _type(value)
    for tensor in graph.initializer:
        types[tensor.name] = Type(tensor.data_type, tuple(tensor.dims))
    return types


def _bounded(graph: onnx.GraphProto) -> bool:
    """Return whether inference may follow the numbers of shapes through the graph.

    A chain of Concat that doubles would have it hold trillions of them.
    """
    held = {t.name: prod(t.dims) for t in graph.initializer if len(t.dims) < 2}
    for node in graph.node:
        parts = [held.get(name, 0) for name in node.input]
        if node.op_type in ("Shape", "Size"):
            count = _MOST_AXES
        elif node.op_type in _FOLLOWED:
            count = sum(parts) if node.op_type in ("Concat", "Gather") else max(parts, default=0)
        else:
            count = 0
        if count > _MOST_NUMBERS:
            return False
        held.update(dict.fromkeys(node.output, count))
    return True


def _type(value: onnx.ValueInfoProto) -> Type:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return Type(tensor.elem_type, None)
    return Type(
        tensor.elem_type,
        tuple(
            # Below zero is an older way to say that it is free.
            d.dim_value
            if d.HasField("dim_value") and d.dim_value >= 0
            else d.dim_param or f"{value.name}:{axis}"
            for axis, d in enumerate(tensor.shape.dim)
        ),
    )
