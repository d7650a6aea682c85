"""Reductions over axes, and the spreading of their gradients."""

from collections.abc import Callable
from math import prod

from onnx import TensorProto

from gradcam_multi_onnx.autodiff.registry import ZERO, Answers, vjp
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value

_ATTRIBUTES = ("axes", "keepdims", "noop_with_empty_axes")
Spread = Callable[[Site, Value, list[int]], Value]


def reduced_axes(n: Site, changed: int) -> list[int]:
    """Return the axes that a reduction goes over, from 0 on; all where none are named.

    `changed` is the opset in which the operator's axes became an input.
    """
    axes = n.setting("axes", 1, changed)
    if not axes:
        return [] if n.attribute("noop_with_empty_axes", 0) else list(range(n.x.rank))
    return sorted(axis % n.x.rank for axis in axes)


def _kept(n: Site, value: Value, axes: list[int]) -> Value:
    # With the reduced axes back as 1, broadcasting does the rest.
    shape = tuple(1 if axis in axes else extent for axis, extent in enumerate(n.x.shape))
    return n.b.reshape(value, shape)


def _sum(n: Site, g: Value, axes: list[int]) -> Value:
    return _kept(n, g, axes)  # the walk spreads it


def _mean(n: Site, g: Value, axes: list[int]) -> Value:
    return divided_by_count(n, _kept(n, g, axes), axes)


def divided_by_count(n: Site, g: Value, axes: list[int]) -> Value:
    """Return g over the number of elements of the first input along the axes."""
    extents = [n.x.shape[axis] for axis in axes]
    if all(isinstance(extent, int) for extent in extents):
        return g / float(prod(int(extent) for extent in extents))
    sizes = n.b.vector([n.b.extent(n.x, axis) for axis in axes])
    total = n.b.op("ReduceProd", sizes, shape=(1,), keepdims=1)
    return g / n.b.cast(total, g.dtype)


def _extremum(n: Site, g: Value, axes: list[int]) -> Value:
    """Split the gradient among equals, as torch.amax does."""
    chosen = n.b.equal(n.x, _kept(n, n.y, axes))
    return chosen * (_kept(n, g, axes) / n.b.reduce(chosen, axes))


def _l1(n: Site, g: Value, axes: list[int]) -> Value:
    return _kept(n, g, axes) * n.b.map("Sign", n.x)


def _l2(n: Site, g: Value, axes: list[int]) -> Value:
    # The norm of zeros has no derivative; 0 is what frameworks take.
    norm = _kept(n, n.y, axes)
    return n.b.where(norm > 0, n.x * (_kept(n, g, axes) / n.b.where(norm > 0, norm, 1)), 0)


def _sum_square(n: Site, g: Value, axes: list[int]) -> Value:
    return _kept(n, g, axes) * n.x * 2.0


def _log_sum_exp(n: Site, g: Value, axes: list[int]) -> Value:
    return _kept(n, g, axes) * n.b.map("Exp", n.x - _kept(n, n.y, axes))


def _log_sum(n: Site, g: Value, axes: list[int]) -> Value:
    return n.b.expand(_kept(n, g, axes) / n.b.map("Exp", _kept(n, n.y, axes)), n.x)


def _product(n: Site, g: Value, axes: list[int]) -> Value:
    """The product of the others, by division unless there are zeros."""
    zero = n.b.equal(n.x, 0.0)
    zeros = n.b.reduce(zero, axes)
    others = n.b.where(n.b.map("Equal", n.x, 0.0, dtype=TensorProto.BOOL), 1.0, n.x)
    shape = tuple(1 if axis in axes else extent for axis, extent in enumerate(n.x.shape))
    product = (
        n.b.op("ReduceProd", others, n.b.integers(axes), shape=shape, keepdims=1)
        if axes else others
    )  # fmt: skip
    # A zero gets the product of the rest where it is the only one; the rest gets 0 beside it.
    alone = n.b.equal(zeros, 1.0) * zero
    none = n.b.equal(zeros, 0.0)
    return _kept(n, g, axes) * product * (alone + none / others)


RULES: dict[str, tuple[Spread, int]] = {
    "ReduceL1": (_l1, 18),
    "ReduceL2": (_l2, 18),
    "ReduceLogSum": (_log_sum, 18),
    "ReduceLogSumExp": (_log_sum_exp, 18),
    "ReduceMax": (_extremum, 18),
    "ReduceMean": (_mean, 18),
    "ReduceMin": (_extremum, 18),
    "ReduceProd": (_product, 18),
    "ReduceSum": (_sum, 13),
    "ReduceSumSquare": (_sum_square, 18),
}
"""Operator: how its cotangent spreads, and the opset in which the axes became an input."""


def _register(op: str, spread: Spread, changed: int) -> None:
    def rule(n: Site, g: Value) -> Answers:
        return (spread(n, g, reduced_axes(n, changed)), *(ZERO for _ in n.node.input[1:]))

    vjp(op, attributes=_ATTRIBUTES)(rule)


for _op, (_spread, _changed) in RULES.items():
    _register(_op, _spread, _changed)


@vjp("CumSum", attributes=("exclusive", "reverse"), since=11)
def _cumulative_sum(n: Site, g: Value) -> Answers:
    return _summed_back(n, g), ZERO


def _summed_back(n: Site, g: Value) -> Value:
    back = {"exclusive": n.attribute("exclusive", 0), "reverse": 1 - n.attribute("reverse", 0)}
    return n.b.op("CumSum", g, n.input(1), shape=n.x.shape, **back)


@vjp("CumProd", attributes=("exclusive", "reverse"), since=26)
def _cumulative_product(n: Site, g: Value) -> Answers:
    """Without zeros before it a result's share is y/x; a first zero gets the product of the rest.

    That product is the exponential of a sum of logarithms, with the sign apart.
    """
    zero = n.b.equal(n.x, 0.0)
    others = n.b.where(n.b.map("Equal", n.x, 0.0, dtype=TensorProto.BOOL), 1.0, n.x)

    def cumulated(value: Value, exclusive: int) -> Value:
        way = {"exclusive": exclusive, "reverse": n.attribute("reverse", 0)}
        return n.b.op("CumSum", value, n.input(1), shape=n.x.shape, **way)

    own = n.attribute("exclusive", 0)
    zeros, before = cumulated(zero, own), cumulated(zero, 1)
    negative = cumulated(n.b.cast(others < 0, g.dtype), own)
    sign = 1 - n.b.map("Mod", negative, 2.0, fmod=1) * 2
    size = n.b.map("Exp", cumulated(n.b.map("Log", n.b.map("Abs", others)), own))
    at_zero = _summed_back(n, g * size * sign * n.b.equal(zeros, 1.0))
    return _summed_back(n, g * n.y) * (1 - zero) / others + at_zero * zero * n.b.equal(
        before, 0.0
    ), ZERO
