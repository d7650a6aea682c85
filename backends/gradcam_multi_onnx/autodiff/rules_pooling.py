"""Poolings."""

from dataclasses import replace
from math import prod

import numpy as np
from onnx import TensorProto

from gradcam_multi_onnx.autodiff import phases, windows
from gradcam_multi_onnx.autodiff.activations import through_relu
from gradcam_multi_onnx.autodiff.registry import Answers, vjp
from gradcam_multi_onnx.autodiff.rules_reduction import divided_by_count
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value, count
from gradcam_multi_onnx.autodiff.windows import Axis

_ATTRIBUTES = (*windows.ATTRIBUTES, "ceil_mode")


@vjp("MaxPool", attributes=(*_ATTRIBUTES, "storage_order"), quantised=True)
def _max_pool(n: Site, g: Value) -> Answers:
    """Add each cotangent up at its window's maximum, the first of equals, as frameworks do."""
    rectified, b = n.rectified(0), n.b
    x = n.x if rectified is None else rectified
    copied = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
    attributes = {name: n.attribute(name) for name in copied}
    if not (len(n.node.output) > 1 and n.node.output[1]):
        # The maxima of x as it is here: a kept result may come from an x rounded otherwise.
        y = b.op("MaxPool", x, shape=g.shape, **attributes)
        # A ReLU before it is as well taken after it, where there is less to multiply.
        masked = g if rectified is None else through_relu(y, g)
        dx = phases.pooled_back(x, y, masked, windows.windows_of(n)) if x.rank == 4 else None
        if dx is not None:
            b.rectified.update([dx.name] if rectified is not None else [])
            return (dx,)
    results = [(x.dtype, g.shape), (TensorProto.INT64, g.shape)]
    _, places = b.write("MaxPool", x, results=results, **attributes)
    total = count(x.shape)
    size = b.integers([total]) if total is not None else _product(n, b.shape(x))
    zeros = b.zeros(size, g.dtype, total if total is not None else b.fresh("extent"))
    flat_places = b.op("Reshape", places, b.integers([-1]), shape=("cells",))
    flat_g = b.op("Reshape", g, b.integers([-1]), shape=("cells",))
    added = b.op(
        "ScatterElements", zeros, flat_places, flat_g, shape=zeros.shape, axis=0, reduction="add"
    )
    return (b.reshape(added, x.shape, x),)


def _product(n: Site, shape: Value) -> Value:
    return n.b.op("ReduceProd", shape, shape=(1,), keepdims=1)


@vjp("AveragePool", attributes=(*_ATTRIBUTES, "count_include_pad"))
def _average_pool(n: Site, g: Value) -> Answers:
    """Divide by each window's number of cells, and add the windows up."""
    axes = windows.windows_of(n)
    shared = g / _divisor(n, axes)
    repeated = windows.repeat_windows(shared, axes, n.x)
    if repeated is not None:
        return (repeated,)
    (channels,) = n.extents(n.x, [1])
    ones = n.b.constant(np.ones([channels, 1, *(axis.kernel for axis in axes)]), g.dtype)
    return (windows.scatter_windows(shared, ones, axes, channels, n.x),)


def _divisor(n: Site, axes: list[Axis]) -> Value | float:
    full = float(prod(axis.kernel for axis in axes))
    padded = any(axis.before or axis.after for axis in axes)
    counted = bool(n.attribute("count_include_pad", 0))
    if not n.attribute("ceil_mode", 0) and (counted or not padded):
        return full
    places = range(2, n.x.rank)
    product = np.ones(())
    for axis, extent, windows_count in zip(
        axes, n.extents(n.x, places), n.extents(n.y, places), strict=True
    ):
        taps = np.arange(windows_count)[:, None] * axis.stride - axis.before
        taps = taps + np.arange(axis.kernel) * axis.dilation
        # What ceil_mode reaches beyond the padding never counts.
        low, high = (-axis.before, extent + axis.after) if counted else (0, extent)
        product = np.multiply.outer(product, ((taps >= low) & (taps < high)).sum(axis=1))
    return n.b.constant(product[None, None], n.x.dtype)


@vjp("LpPool", attributes=(*_ATTRIBUTES, "p"))
def _lp_pool(n: Site, g: Value) -> Answers:
    """Add up g y^(1-p) over the windows, and multiply by |x|^(p-1) with x's sign."""
    axes = windows.windows_of(n)
    (channels,) = n.extents(n.x, [1])
    ones = n.b.constant(np.ones([channels, 1, *(axis.kernel for axis in axes)]), g.dtype)
    power = n.attribute("p", 2)
    spread = windows.scatter_windows(_over_norm(n, g, power), ones, axes, channels, n.x)
    return (spread * _signed_power(n, power),)


def _over_norm(n: Site, g: Value, power: int) -> Value:
    if power == 1:
        return g
    some = n.y > 0  # the norm of zeros has no derivative; 0 is what frameworks take
    return n.b.where(some, g * n.b.where(some, n.y, 1) ** (1.0 - power), 0)


def _signed_power(n: Site, power: int) -> Value:
    if power == 2:
        return n.x
    sign = n.b.map("Sign", n.x)
    return sign if power == 1 else sign * n.b.map("Abs", n.x) ** (power - 1.0)


@vjp("GlobalLpPool", attributes=("p",))
def _global_lp_pool(n: Site, g: Value) -> Answers:
    power = n.attribute("p", 2)
    return (_over_norm(n, g, power) * _signed_power(n, power),)


@vjp("GlobalAveragePool")
def _global_average_pool(n: Site, g: Value) -> Answers:
    cells = list(range(2, n.x.rank))
    # One cell, whatever inference could tell of it; the walk spreads it.
    one = replace(g, shape=(*g.shape[:2], *(1 for _ in cells)))
    return (divided_by_count(n, one, cells),)


@vjp("GlobalMaxPool")
def _global_max_pool(n: Site, g: Value) -> Answers:
    """Split the gradient among equals, as torch.amax does."""
    chosen = n.b.equal(n.x, n.y)
    return (chosen * (g / n.b.reduce(chosen, range(2, n.x.rank))),)
