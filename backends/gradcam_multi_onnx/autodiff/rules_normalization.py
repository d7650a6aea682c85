"""Normalisations, and the softmax, which is one."""

from functools import reduce

import numpy as np
from onnx import TensorProto

from gradcam_multi_onnx.autodiff.registry import ZERO, Answer, Answers, vjp
from gradcam_multi_onnx.autodiff.rules_reduction import divided_by_count
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Shape

_BATCH = ("epsilon", "momentum", "spatial", "training_mode")


def _per_channel(n: Site, vector: Value) -> Value:
    shape: Shape = (*vector.shape, *(1,) * (n.x.rank - 2))
    return n.b.reshape(vector, shape)


@vjp("BatchNormalization", attributes=_BATCH)
def _batch_normalization(n: Site, g: Value) -> Answers:
    if n.attribute("training_mode", 0) or len([name for name in n.node.output if name]) > 1:
        n.refuse("it runs in training mode")
    if not n.attribute("spatial", 1):
        n.refuse("it normalises every position apart (spatial=0)")
    deviation = n.b.map("Sqrt", n.input(4) + n.attribute("epsilon", 1e-5))
    factor = n.input(1) / deviation
    dx = g * _per_channel(n, factor)
    if n.wanted == {0}:
        return (dx, ZERO, ZERO, ZERO, ZERO)
    centred = n.x - _per_channel(n, n.input(3))
    total, along = _channel_sum(n, g), _channel_sum(n, g * centred)
    variance = along * factor / (deviation * deviation) * -0.5
    return dx, along / deviation, total, -total * factor, variance


def _channel_sum(n: Site, value: Value) -> Value:
    summed = n.b.reduce(value, [0, *range(2, value.rank)])
    return n.b.reshape(summed, (value.shape[1],))


def _centred(n: Site, x: Value, axes: list[int]) -> tuple[Value, Value]:
    """Return the standardised x and the inverse deviation."""
    centred = x - n.b.reduce(x, axes, mean=True)
    variance = n.b.reduce(centred * centred, axes, mean=True)
    deviation = n.b.map("Sqrt", variance + n.attribute("epsilon", 1e-5))
    return centred / deviation, deviation


def _standardised(n: Site, g: Value, unit: Value, deviation: Value, axes: list[int]) -> Value:
    along = unit * n.b.reduce(g * unit, axes, mean=True)
    return (g - n.b.reduce(g, axes, mean=True) - along) / deviation


@vjp("LayerNormalization", attributes=("axis", "epsilon", "stash_type"), since=17, several=True)
def _layer_normalization(n: Site, _: Value) -> Answers:
    """Take the mean's and the inverse deviation's cotangents too."""
    axes = list(range(n.axis(-1, n.x.rank), n.x.rank))
    unit, deviation = _centred(n, n.x, axes)
    g, mean, inverse = [*n.cotangents, None, None][:3]
    parts: list[Value] = []
    answers: list[Answer] = [ZERO, ZERO, ZERO]
    if g is not None:
        parts.append(_standardised(n, g * n.input(1), unit, deviation, axes))
        answers = [ZERO, g * unit, g]
    if mean is not None:
        parts.append(divided_by_count(n, n.b.cast(mean, n.x.dtype), axes))
    if inverse is not None:
        share = divided_by_count(n, -n.b.cast(inverse, n.x.dtype), axes)
        parts.append(share * unit / (deviation * deviation))
    answers[0] = n.b.expand(reduce(lambda one, other: one + other, parts), n.x)
    return answers[: len(n.node.input)]


@vjp("RMSNormalization", attributes=("axis", "epsilon", "stash_type"), since=23)
def _rms_normalization(n: Site, g: Value) -> Answers:
    axes = list(range(n.axis(-1, n.x.rank), n.x.rank))
    square = n.b.reduce(n.x * n.x, axes, mean=True)
    deviation = n.b.map("Sqrt", square + n.attribute("epsilon", 1e-5))
    unit, scaled = n.x / deviation, g * n.input(1)
    along = unit * n.b.reduce(scaled * unit, axes, mean=True)
    return (scaled - along) / deviation, g * unit


@vjp("InstanceNormalization", attributes=("epsilon",))
def _instance_normalization(n: Site, g: Value) -> Answers:
    axes = list(range(2, n.x.rank))
    unit, deviation = _centred(n, n.x, axes)
    scaled = g * _per_channel(n, n.input(1))
    dx = _standardised(n, scaled, unit, deviation, axes)
    if n.wanted == {0}:
        return dx, ZERO, ZERO
    return dx, _channel_sum(n, g * unit), _channel_sum(n, g)


@vjp("GroupNormalization", attributes=("epsilon", "num_groups", "stash_type"), since=18)
def _group_normalization(n: Site, g: Value) -> Answers:
    """Before opset 21 scale and bias are per group, from it on per channel."""
    groups, x = n.attribute("num_groups"), n.x
    (channels,) = n.extents(x, [1])
    batch, each = x.shape[0], channels // groups
    apart: Shape = (batch, groups, each, *x.shape[2:])
    axes = list(range(2, len(apart)))
    inner = (1,) * len(x.shape[2:])
    scale: Shape = (groups, 1, *inner) if n.opset < 21 else (groups, each, *inner)
    grouped, cotangent = n.b.reshape(x, apart, x), n.b.reshape(g, apart, x)
    unit, deviation = _centred(n, grouped, axes)
    scaled = cotangent * n.b.reshape(n.input(1), scale)
    dx = n.b.reshape(_standardised(n, scaled, unit, deviation, axes), x.shape, x)
    if n.wanted == {0}:
        return dx, ZERO, ZERO
    over = [0, *axes] if n.opset < 21 else [0, *axes[1:]]
    along, total = n.b.reduce(cotangent * unit, over), n.b.reduce(cotangent, over)
    return dx, n.b.reshape(along, n.input(1).shape), n.b.reshape(total, n.input(2).shape)


@vjp("LpNormalization", attributes=("axis", "p"))
def _lp_normalization(n: Site, g: Value) -> Answers:
    axis, power = n.axis(-1, n.x.rank), n.attribute("p", 2)
    size = n.x * n.x if power == 2 else n.b.map("Abs", n.x)
    norm = n.b.reduce(size, [axis])
    norm = n.b.map("Sqrt", norm) if power == 2 else norm
    some = norm > 0  # zeros stay zeros; 0 is what frameworks take for their derivative
    along = n.b.reduce(g * n.y, [axis])
    slope = n.y if power == 2 else n.b.map("Sign", n.x)
    return (n.b.where(some, (g - slope * along) / n.b.where(some, norm, 1), 0),)


@vjp("MeanVarianceNormalization", attributes=("axes",), since=9)
def _mean_variance(n: Site, g: Value) -> Answers:
    axes = [axis % n.x.rank for axis in n.attribute("axes", [0, 2, 3])]
    centred = n.x - n.b.reduce(n.x, axes, mean=True)
    deviation = n.b.map("Sqrt", n.b.reduce(centred * centred, axes, mean=True)) + 1e-9
    return (_standardised(n, g, centred / deviation, deviation, axes),)


def softmax_axes(n: Site) -> list[int]:
    """Return the axes over which a softmax sums: all from `axis` on before opset 13."""
    if n.opset < 13:
        return list(range(n.axis(1, n.y.rank), n.y.rank))
    return [n.axis(-1, n.y.rank)]


@vjp("Softmax", attributes=("axis",))
def _softmax(n: Site, g: Value) -> Answers:
    """Give nothing to rows that are masked entirely: 0/0, which a Where replaces behind it."""
    y = n.b.where(n.b.map("IsNaN", n.y, dtype=TensorProto.BOOL), 0, n.y)
    return (y * (g - n.b.reduce(g * y, softmax_axes(n))),)


@vjp("LogSoftmax", attributes=("axis",))
def _log_softmax(n: Site, g: Value) -> Answers:
    return (g - n.b.map("Exp", n.y) * n.b.reduce(g, softmax_axes(n)),)


@vjp("LRN", attributes=("alpha", "beta", "bias", "size"))
def _local_response(n: Site, g: Value) -> Answers:
    """With y = x s^-beta, s = bias + alpha/size * (sum of x^2 over a window of channels)."""
    size, beta = n.attribute("size"), n.attribute("beta", 0.75)
    alpha, bias = n.attribute("alpha", 1e-4) / size, n.attribute("bias", 1.0)
    (channels,) = n.extents(n.x, [1])
    distance = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    window = (distance >= -((size - 1) // 2)) & (distance <= size // 2)
    scale = n.b.along(n.x * n.x, 1, window) * alpha + bias
    through = n.b.along(g * n.y / scale, 1, window.T)
    return (g * scale**-beta - n.x * through * (2 * alpha * beta),)
