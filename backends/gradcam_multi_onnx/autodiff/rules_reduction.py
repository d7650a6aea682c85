"""Reductions over axes, and the spreading of their gradients."""

from collections.abc import Callable
from math import prod

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
    return n.b.expand(_kept(n, g, axes), n.x)


def _mean(n: Site, g: Value, axes: list[int]) -> Value:
    return n.b.expand(divided_by_count(n, _kept(n, g, axes), axes), n.x)


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


RULES: dict[str, tuple[Spread, int]] = {
    "ReduceL1": (_l1, 18),
    "ReduceL2": (_l2, 18),
    "ReduceLogSumExp": (_log_sum_exp, 18),
    "ReduceMax": (_extremum, 18),
    "ReduceMean": (_mean, 18),
    "ReduceMin": (_extremum, 18),
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
