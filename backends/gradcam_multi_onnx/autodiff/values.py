"""Tensors of a gradient graph while it is written, with arithmetic."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from onnx import TensorProto

from gradcam_multi_onnx.graph import Dim, Shape

if TYPE_CHECKING:
    from gradcam_multi_onnx.autodiff.builder import Builder


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A tensor of the gradient graph, or of the forward graph read by it; arithmetic writes nodes.

    `shape` holds symbols where extents are free.
    """

    builder: "Builder"
    name: str
    dtype: int
    shape: Shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __neg__(self) -> "Value":
        return self.builder.map("Neg", self)

    def __add__(self, other: "Operand") -> "Value":
        return self.builder.map("Add", self, other)

    def __sub__(self, other: "Operand") -> "Value":
        return self.builder.map("Sub", self, other)

    def __rsub__(self, other: float) -> "Value":
        return self.builder.map("Sub", self.builder.constant(other, self.dtype), self)

    def __mul__(self, other: "Operand") -> "Value":
        return self.builder.map("Mul", self, other)

    def __truediv__(self, other: "Operand") -> "Value":
        return self.builder.map("Div", self, other)

    def __pow__(self, other: "Operand") -> "Value":
        return self.builder.map("Pow", self, other)

    def __gt__(self, other: "Operand") -> "Value":
        return self.builder.map("Greater", self, other, dtype=TensorProto.BOOL)

    def __lt__(self, other: "Operand") -> "Value":
        return self.builder.map("Less", self, other, dtype=TensorProto.BOOL)

    __radd__, __rmul__ = __add__, __mul__


Operand: TypeAlias = Value | float


def count(shape: Iterable[Dim]) -> int | None:
    """Return the number of elements, or None where an extent is free."""
    extents = tuple(shape)
    return (
        prod(n for n in extents if isinstance(n, int))
        if all(isinstance(n, int) for n in extents)
        else None
    )
