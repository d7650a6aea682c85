"""Writes gradient graphs, with the handful of operators that rules share."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from gradcam_multi_onnx.autodiff.finite import Finiteness
from gradcam_multi_onnx.autodiff.narrow import Narrow
from gradcam_multi_onnx.autodiff.registry import FreeExtent, Refusal
from gradcam_multi_onnx.autodiff.values import Operand, Value
from gradcam_multi_onnx.graph import FLOATS, Dim, Shape, Type

OPSET = 18  # of what is written: the first in which every reduction takes its axes as an input
IR_VERSION = 8
_ONES = 1 << 12  # elements of a constant that spreads a gradient over a grid, 64 by 64


class Builder:
    """Collects nodes and constants; equal constants are stored once.

    `reserved` are names of the forward graph, which are never given to new values. `written` holds
    what is written once for each value. `local` is the cotangent of a graph for the runtime here.
    `rectified` are cotangents of ReLUs' results that are zero already where these are. `told` are
    free extents that an operator's other input settles.
    """

    def __init__(self, reserved: frozenset[str]) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._reserved = reserved
        self._count = 0
        self._extents: dict[str, tuple[Value, int]] = {}
        self.finite = Finiteness()
        self.written: dict[tuple[str, str], Value] = {}
        self.local: str | None = None
        self.rectified: set[str] = set()
        self.narrow = Narrow(self)
        self.told: dict[str, int] = {}

    def fresh(self, word: str) -> str:
        """Return a name that neither graph has."""
        while True:
            self._count += 1
            if (name := f"vjp_{self._count}_{word}") not in self._reserved:
                return name

    def source(self, name: str, kind: Type) -> Value:
        """Return a value that the gradient graph is fed with, or a constant of the forward graph.

        Half precision is widened: gradients are computed in float32.
        """
        if kind.shape is None:
            raise Refusal(f"the rank of {name!r} is not known")
        return Value(self, name, kind.widened.dtype, kind.shape)

    def extents_from(self, value: Value) -> None:
        """Let free extents be read from this value rather than from a forward value."""
        for axis, extent in enumerate(value.shape):
            if isinstance(extent, str):
                self._extents.setdefault(extent, (value, axis))

    def constant(self, content: Any, dtype: int) -> Value:
        """Return a constant of an ONNX element type."""
        array = np.asarray(content, onnx.helper.tensor_dtype_to_np_dtype(dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.fresh("constant")
            self.tensors[name] = numpy_helper.from_array(array, name)
            self._constants[key] = Value(self, name, dtype, array.shape)
        return self._constants[key]

    def integers(self, content: Iterable[int]) -> Value:
        """Return a constant int64 vector."""
        return self.constant(list(content), TensorProto.INT64)

    def write(
        self,
        op: str,
        *inputs: Value | None,
        results: Sequence[tuple[int, Shape]],
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """Write one node and return its results, given their element types and shapes."""
        kept = {key: value for key, value in attributes.items() if value is not None}
        narrow = self.narrow.write(op, inputs, results, kept)
        if narrow is not None:
            return (narrow,)
        outputs = tuple(Value(self, self.fresh(op), dtype, shape) for dtype, shape in results)
        self.emit(op, inputs, outputs, kept)
        return outputs

    def emit(
        self, op: str, inputs: Sequence[Value | None], outputs: Sequence[Value],
        attributes: dict[str, Any],
    ) -> None:  # fmt: skip
        """Write one node of values that exist."""
        names, made = [v.name if v else "" for v in inputs], [v.name for v in outputs]
        self.nodes.append(onnx.helper.make_node(op, names, made, **attributes))
        by_zero = op == "Div" and not self._nonzero(names[1])
        self.finite.follow(op, names, made, by_zero=by_zero)
        self.narrow.note(op, inputs, made[0], attributes)

    def _nonzero(self, name: str) -> bool:
        return name in self.tensors and bool(numpy_helper.to_array(self.tensors[name]).all())

    def op(self, op: str, *inputs: Value | None, shape: Shape, **attributes: Any) -> Value:
        """Write one node whose only result has the first input's element type."""
        assert inputs[0] is not None
        return self.write(op, *inputs, results=[(inputs[0].dtype, shape)], **attributes)[0]

    def map(self, op: str, *inputs: Operand, dtype: int | None = None, **attributes: Any) -> Value:
        """Write an elementwise node with broadcasting; numbers take the first value's type."""
        first = next(value for value in inputs if isinstance(value, Value))
        values = [v if isinstance(v, Value) else self.constant(v, first.dtype) for v in inputs]
        shape = self._broadcast([value.shape for value in values])
        result = first.dtype if dtype is None else dtype
        return self.write(op, *values, results=[(result, shape)], **attributes)[0]

    def _broadcast(self, shapes: Sequence[Shape]) -> Shape:
        rank = max(map(len, shapes))
        padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
        return tuple(self._joined(extents) for extents in zip(*padded, strict=True))

    def _joined(self, extents: tuple[Dim, ...]) -> Dim:
        several = {extent for extent in extents if extent != 1}
        known = [extent for extent in several if isinstance(extent, int)]
        if known:
            return known[0]
        return several.pop() if len(several) == 1 else self.fresh("extent") if several else 1

    def masked(self, g: Value, condition: Value) -> Value:
        """Return g where the condition holds, else 0.

        By a product where g is finite: ONNX Runtime's Where runs on one thread and takes twice the
        time. Where g may be infinite, 0 * inf would be NaN.
        """
        if self.finite.holds(g.name):
            return g * self.cast(condition, g.dtype)
        return self.where(condition, g, 0)

    def where(self, condition: Value, one: Operand, other: Operand) -> Value:
        """Select; a mask by multiplication would turn 0 * inf into NaN."""
        typed = next(value for value in (one, other) if isinstance(value, Value))
        one, other = (
            v if isinstance(v, Value) else self.constant(v, typed.dtype) for v in (one, other)
        )
        return self.map("Where", condition, one, other, dtype=typed.dtype)

    def equal(self, one: Value, other: Operand) -> Value:
        """Return 1.0 where equal, in the first value's type, else 0.0."""
        return self.cast(self.map("Equal", one, other, dtype=TensorProto.BOOL), one.dtype)

    def cast(self, value: Value, dtype: int) -> Value:
        """Return the value in another element type, or itself."""
        if value.dtype == dtype:
            return value
        return self.map("Cast", value, dtype=dtype, to=dtype)

    def reduce(self, value: Value, axes: Iterable[int], *, mean: bool = False) -> Value:
        """Return the sum, or mean, over axes, which stay as 1."""
        listed = sorted({axis % value.rank for axis in axes})
        shape = tuple(1 if axis in listed else n for axis, n in enumerate(value.shape))
        if shape == value.shape:
            return value
        op = "ReduceMean" if mean else "ReduceSum"
        return self.op(op, value, self.integers(listed), shape=shape, keepdims=1)

    def extent(self, value: Value, axis: int) -> Dim | Value:
        """Return an extent: a number, or a one-element int64 vector where it is free."""
        return self._extent(value.shape[axis], value)

    def _extent(self, extent: Dim, *holders: Value) -> Dim | Value:
        if isinstance(extent, int):
            return extent
        places = [
            (holder, holder.shape.index(extent)) for holder in holders if extent in holder.shape
        ]
        found = self._extents.get(extent, places[0] if places else None)
        if found is None:
            raise FreeExtent(f"the extent {extent!r} is free")
        holder, axis = found
        result = [(TensorProto.INT64, (1,))]
        return self.write("Shape", holder, results=result, start=axis, end=axis + 1)[0]

    def vector(self, parts: Sequence[Dim | Value]) -> Value:
        """Return an int64 vector of numbers and one-element vectors."""
        if all(isinstance(part, int) for part in parts):
            return self.integers(part for part in parts if isinstance(part, int))
        values = [p if isinstance(p, Value) else self.integers([int(p)]) for p in parts]
        if len(values) == 1:
            return values[0]
        return self.op("Concat", *values, shape=(len(values),), axis=0)

    def shape(self, value: Value) -> Value:
        """Return the shape as an int64 vector, constant where it can be."""
        return self.vector([self.extent(value, axis) for axis in range(value.rank)])

    def reshape(self, value: Value, shape: Shape, like: Value | None = None) -> Value:
        """Return the value in another shape; `like` tells free extents that the value lacks."""
        if value.shape == shape:
            return value
        free = sum(isinstance(extent, str) for extent in shape)
        if free <= 1 and 0 not in shape:
            target = self.integers(-1 if isinstance(n, str) else n for n in shape)
        else:
            holders = (value,) if like is None else (value, like)
            target = self.vector([self._extent(extent, *holders) for extent in shape])
        empty = {"allowzero": 1} if 0 in shape else {}
        return self.op("Reshape", value, target, shape=shape, **empty)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Return the value with its axes in another order."""
        if list(order) == list(range(value.rank)):
            return value
        shape = tuple(value.shape[axis] for axis in order)
        return self.op("Transpose", value, shape=shape, perm=list(order))

    def expand(self, value: Value, like: Value) -> Value:
        """Return the value repeated along the axes in which `like` is longer."""
        if value.shape == like.shape:
            return value
        own = (1,) * (like.rank - value.rank) + value.shape
        times = [1 if one == n else n for one, n in zip(own, like.shape, strict=True)]
        known = [n for n in times if isinstance(n, int)]
        if len(known) == like.rank and prod(known) <= _ONES and value.dtype in FLOATS:
            return value * self.constant(np.ones(known), value.dtype)  # a third of Expand's time
        parts = [n if n == 1 else self.extent(like, axis) for axis, n in enumerate(times)]
        return self.op("Expand", value, self.vector(parts), shape=like.shape)

    def slice(
        self, value: Value, start: Sequence[Dim | Value], stop: Sequence[Dim | Value],
        axes: Sequence[int], extents: Sequence[Dim], step: int = 1,
    ) -> Value:  # fmt: skip
        """Return a part along some axes, whose extents afterwards are given."""
        shape = list(value.shape)
        for axis, extent in zip(axes, extents, strict=True):
            shape[axis] = extent
        bounds = (self.vector(start), self.vector(stop), self.integers(axes))
        steps = () if step == 1 else (self.integers([step] * len(axes)),)
        return self.op("Slice", value, *bounds, *steps, shape=tuple(shape))

    def pad(
        self, value: Value, axis: int, before: Dim | Value, after: Dim | Value, to: Dim
    ) -> Value:
        """Return the value with zeros before and after along one axis."""
        if before == 0 and after == 0:
            return value
        shape = tuple(to if place == axis else n for place, n in enumerate(value.shape))
        if isinstance(before, int) and isinstance(after, int):
            if isinstance(to, int) and (held := self.narrow.padded(value, axis, before, to)):
                return held
            amounts = [0] * (2 * value.rank)  # optimisers of exported files like constants
            amounts[axis], amounts[value.rank + axis] = before, after
            return self.op("Pad", value, self.integers(amounts), shape=shape)
        zeros = [0] * axis, [0] * (value.rank - 1), [0] * (value.rank - 1 - axis)
        return self.op(
            "Pad", value, self.vector([*zeros[0], before, *zeros[1], after, *zeros[2]]), shape=shape
        )

    def zeros(self, shape: Value, dtype: int, *extents: Dim) -> Value:
        """Return zeros of a shape that an int64 vector tells."""
        value = onnx.helper.make_tensor("value", dtype, [1], [0])
        return self.write("ConstantOfShape", shape, results=[(dtype, extents)], value=value)[0]

    def flip(self, value: Value, axes: Sequence[int]) -> Value:
        """Return the value mirrored along axes."""
        extents = [value.shape[axis] for axis in axes]
        last, first = [-1] * len(axes), [np.iinfo(np.int64).min + 1] * len(axes)
        return self.slice(value, last, first, axes, extents, step=-1)

    def matmul(self, one: Value, other: Value) -> Value:
        """Return the matrix product over the last two axes, the others broadcast."""
        lead = self._broadcast([one.shape[:-2], other.shape[:-2], ()])
        return self.op("MatMul", one, other, shape=(*lead, one.shape[-2], other.shape[-1]))

    def along(self, value: Value, axis: int, matrix: NDArray[Any]) -> Value:
        """Return the value with one axis multiplied by a constant matrix (new extent, old)."""
        order = [place for place in range(value.rank) if place != axis] + [axis]
        back = list(np.argsort(order))
        moved = self.transpose(value, order)
        right = self.constant(matrix.T, value.dtype)
        product = self.op("MatMul", moved, right, shape=(*moved.shape[:-1], matrix.shape[0]))
        return self.transpose(product, [int(place) for place in back])

    def sum_to(self, value: Value, target: Value) -> Value:
        """Undo broadcasting: sum over the axes in which the target was repeated."""
        if value.shape == target.shape:
            return value
        lead = value.rank - target.rank
        repeated = [
            axis + lead
            for axis, n in enumerate(target.shape)
            if n == 1 and value.shape[axis + lead] != 1
        ]
        value = self.reduce(value, [*range(lead), *repeated])
        value = self.reshape(value, value.shape[lead:]) if lead else value
        doubtful = [
            axis
            for axis, n in enumerate(target.shape)
            if isinstance(n, str) and value.shape[axis] not in (1, n, self.told.get(n))
        ]
        for axis in doubtful:  # whether it was repeated is only known at run time
            value = self._sum_if_one(value, axis, target)
        return value

    def _sum_if_one(self, value: Value, axis: int, target: Value) -> Value:
        own = self.vector([self.extent(target, axis)])
        # (own == 1) ? [axis] : [] — a reduction over no axes hands its input on.
        one = self.write("Equal", own, self.integers([1]), results=[(TensorProto.BOOL, (1,))])[0]
        axes = self.op("Compress", self.integers([axis]), one, shape=("some",), axis=0)
        shape = tuple(target.shape[a] if a == axis else n for a, n in enumerate(value.shape))
        return self.op("ReduceSum", value, axes, shape=shape, keepdims=1, noop_with_empty_axes=1)
