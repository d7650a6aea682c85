"""Cotangents that are zero but for a few slices along one axis, as behind a class token.

The score of a ViT reads one token of the last block, and nothing before its attention's product
with the keys brings the others in: half of that block's way back would be spent on zeros. Such a
value is held as its slices, to which operators are applied as long as that gives the same; it is
written out where one needs it whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from onnx import numpy_helper

from gradcam_multi_onnx.autodiff.values import Value, count
from gradcam_multi_onnx.graph import Shape

if TYPE_CHECKING:
    from gradcam_multi_onnx.autodiff.builder import Builder

_FEW = 4  # the whole axis must be so many times as long: slicing costs nodes too


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value may differ from zero along an axis, counted from the last: -1, -2, ..."""

    axis: int
    start: int
    width: int
    whole: int

    def cut(self, shape: Shape) -> Shape:
        """Return a shape with the span's width along the axis."""
        place = len(shape) + self.axis
        return (*shape[:place], self.width, *shape[place + 1 :])


Inputs: TypeAlias = Sequence[Value | None]
Found: TypeAlias = "tuple[Value, Span | None] | None"
"""The slices of a result and where they are; no span where it is whole."""


class Narrow:
    """The values of a gradient graph that are held as slices."""

    def __init__(self, builder: "Builder") -> None:
        self.b = builder
        self._held: dict[str, tuple[Value, Span]] = {}
        self._written: set[str] = set()
        self._slices: dict[tuple[str, Span], Value] = {}
        self._made: dict[str, tuple[str, Inputs, Mapping[str, Any]]] = {}

    def padded(self, value: Value, axis: int, before: int, to: int) -> Value | None:
        """Hold a value between zeros along an axis; None where it is not narrow."""
        width = value.shape[axis]
        if not isinstance(width, int) or not 0 < width * _FEW <= to or value.name in self._held:
            return None
        span = Span(axis - value.rank, before, width, to)
        shape = tuple(to if place == axis else n for place, n in enumerate(value.shape))
        return self._hold(value, span, Value(self.b, self.b.fresh("Pad"), value.dtype, shape))

    def write(
        self, op: str, inputs: Inputs, results: Sequence[tuple[int, Shape]], attributes: Any
    ) -> Value | None:
        """Apply an operator to slices; None where there are none, or it needs them whole.

        These are written out then.
        """
        held = [v for v in inputs if v is not None and v.name in self._held]
        if not held:
            return None
        rule = RULES.get(op) if len(results) == 1 else None
        dtype, shape = results[0]
        found = rule(self, op, inputs, (dtype, shape), attributes) if rule else None
        if found is None:
            for value in held:
                self._write_out(value)
            return None
        part, span = found
        if span is None:
            return part
        return self._hold(part, span, Value(self.b, self.b.fresh(op), dtype, shape))

    def note(self, op: str, inputs: Inputs, result: str, attributes: Mapping[str, Any]) -> None:
        """Remember how a value was made, so that a slice of it can be made alone."""
        self._made[result] = op, inputs, attributes

    def held(self, value: Value | None) -> tuple[Value, Span] | None:
        """Return the slices of a value and where they are; None for one that is whole."""
        return None if value is None else self._held.get(value.name)

    def of(self, value: Value | None) -> tuple[Value, Span]:
        """Return the same of a value that is held."""
        assert value is not None
        return self._held[value.name]

    def part(self, value: Value, span: Span) -> Value | None:
        """Return what of a value meets the span when both are broadcast; None where unknown."""
        if own := self.held(value):
            return own[0] if own[1] == span else None
        if value.rank < -span.axis or value.shape[span.axis] == 1:
            return value
        return self.slice(value, span) if value.shape[span.axis] == span.whole else None

    def slice(self, value: Value, span: Span) -> Value:
        """Return the slices of a whole value; what it was made of is sliced, where that will do."""
        key = value.name, span
        if key not in self._slices:
            made = self._sliced_before(value, span)
            if made is None:
                ends = [span.start], [span.start + span.width]
                made = self.b.slice(value, *ends, [value.rank + span.axis], [span.width])
            self._slices[key] = made
        return self._slices[key]

    def _sliced_before(self, value: Value, span: Span) -> Value | None:
        op, inputs, attributes = self._made.get(value.name, ("", (), {}))
        given = [each for each in inputs if each is not None]
        result = [(value.dtype, span.cut(value.shape))]
        if op == "Transpose":
            back = replace(span, axis=attributes["perm"][span.axis] - value.rank)
            return self.b.write(op, self.slice(given[0], back), results=result, **attributes)[0]
        parts: list[Value | None] = []
        if op in _POINTWISE:
            parts = [self.part(each, span) for each in given]
        elif op in _REDUCTIONS and span.axis not in (self.axes(given) or {span.axis}):
            parts = [self.part(given[0], span), given[1]]
        if not parts or None in parts:
            return None
        return self.b.write(op, *parts, results=result, **attributes)[0]

    def axes(self, inputs: Sequence[Value]) -> set[int] | None:
        """Return the axes that a reduction may be over, from the last; None where unknown."""
        name = inputs[1].name
        op, made_of, _ = self._made.get(name, ("", (), {}))
        if op == "Compress" and made_of[0] is not None:  # some of these
            name = made_of[0].name
        if name not in self.b.tensors:
            return None
        listed = numpy_helper.to_array(self.b.tensors[name]).reshape(-1)
        return {int(axis) % inputs[0].rank - inputs[0].rank for axis in listed}

    def _hold(self, part: Value, span: Span, whole: Value) -> Value:
        self._held[whole.name] = part, span
        if not self.b.finite.holds(part.name):
            self.b.finite.doubt([whole.name])
        return whole

    def _write_out(self, value: Value) -> None:
        if value.name in self._written:
            return
        self._written.add(value.name)
        part, span = self._held[value.name]
        amounts = np.zeros((2, part.rank), np.int64)
        amounts[:, span.axis] = span.start, span.whole - span.start - span.width
        self.b.emit("Pad", [part, self.b.integers(amounts.reshape(-1).tolist())], [value], {})


Rule: TypeAlias = Callable[[Narrow, str, Inputs, tuple[int, Shape], Mapping[str, Any]], Found]


def _elementwise(
    n: Narrow, op: str, inputs: Inputs, result: tuple[int, Shape], attributes: Mapping[str, Any]
) -> Found:
    given = [each for each in inputs if each is not None]
    held = [n.held(each) for each in given]
    spans = {each[1] for each in held if each}
    if len(spans) > 1 or (op in ("Add", "Sub") and None in held) or (op == "Div" and held[1]):
        return None  # zeros and something, something divided by zeros
    if op == "Where" and (
        held[0] or not all(h or _zero(n, v) for h, v in zip(held[1:], given[1:], strict=True))
    ):
        return None
    (span,) = spans
    dtype, shape = result
    parts = [n.part(each, span) for each in given]
    if None in parts or len(shape) < -span.axis or shape[span.axis] != span.whole:
        return None
    return n.b.write(op, *parts, results=[(dtype, span.cut(shape))], **attributes)[0], span


def _zero(n: Narrow, value: Value) -> bool:
    tensor = n.b.tensors.get(value.name)
    return tensor is not None and not numpy_helper.to_array(tensor).any()


def _product(
    n: Narrow, op: str, inputs: Inputs, result: tuple[int, Shape], attributes: Mapping[str, Any]
) -> Found:
    one, other = inputs
    assert one is not None
    assert other is not None
    if (n.held(one) and n.held(other)) or min(one.rank, other.rank) < 2:
        return None
    left = n.held(one) is not None
    whole, inner, facing = (other, -1, -2) if left else (one, -2, -1)
    part, span = n.of(one if left else other)
    dtype, shape = result
    met: Value | None = whole
    if span.axis == inner:  # summed over: the other's slices alone count, and nothing stays narrow
        across = replace(span, axis=facing)
        met = n.slice(whole, across) if whole.shape[facing] == span.whole else None
    elif span.axis < -2:
        met = n.part(whole, span)
    if met is None:
        return None
    pair = (part, met) if left else (met, part)
    kept = None if span.axis == inner else span
    return n.b.write(op, *pair, results=[(dtype, kept.cut(shape) if kept else shape)])[0], kept


def _transpose(
    n: Narrow, op: str, inputs: Inputs, result: tuple[int, Shape], attributes: Mapping[str, Any]
) -> Found:
    part, span = n.of(inputs[0])
    order = list(attributes.get("perm", range(part.rank)[::-1]))
    return n.b.transpose(part, order), replace(
        span, axis=order.index(part.rank + span.axis) - part.rank
    )


def _reshape(
    n: Narrow, op: str, inputs: Inputs, result: tuple[int, Shape], attributes: Mapping[str, Any]
) -> Found:
    """Keep the axis where it is one of the result's: equally many elements lie behind it."""
    part, span = n.of(inputs[0])
    behind, shape = count(part.shape[part.rank + span.axis + 1 :]), result[1]
    for place, extent in enumerate(shape):
        same = behind is not None and behind == count(shape[place + 1 :])
        if same and extent == span.whole and sum(isinstance(d, str) for d in shape) <= 1:
            now = replace(span, axis=place - len(shape))
            return n.b.reshape(part, now.cut(shape)), now
    return None


def _reduction(
    n: Narrow, op: str, inputs: Inputs, result: tuple[int, Shape], attributes: Mapping[str, Any]
) -> Found:
    part, span = n.of(inputs[0])
    axes = n.axes([each for each in inputs if each is not None])
    dtype, shape = result
    if axes is None or span.axis in axes or not attributes.get("keepdims", 1):
        return None
    return n.b.write(op, part, inputs[1], results=[(dtype, span.cut(shape))], **attributes)[0], span


def _pad(
    n: Narrow, op: str, inputs: Inputs, result: tuple[int, Shape], attributes: Mapping[str, Any]
) -> Found:
    """Zeros along other axes."""
    part, span = n.of(inputs[0])
    amounts = n.b.tensors.get(inputs[1].name) if inputs[1] is not None else None
    if len(inputs) > 2 or attributes or amounts is None:
        return None
    if numpy_helper.to_array(amounts).reshape(2, -1)[:, span.axis].any():
        return None
    dtype, shape = result
    return n.b.write(op, part, inputs[1], results=[(dtype, span.cut(shape))])[0], span


_REDUCTIONS = ("ReduceMean", "ReduceSum")
_POINTWISE = frozenset(
    ("Abs", "Add", "Cast", "Div", "Equal", "Erf", "Exp", "Greater", "IsNaN", "Less", "Log", "Mul",
     "Neg", "Pow", "Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Tanh", "Where")
)  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Cast", "Div", "Mul", "Neg", "Sub", "Where"), _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "MatMul": _product, "Pad": _pad, "Reshape": _reshape, "Transpose": _transpose,
}  # fmt: skip
"""What gives the same for slices as for the whole."""
