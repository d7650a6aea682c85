"""Normalisations, and the softmax, which is one."""

import numpy as np

from gradcam_multi_onnx.autodiff.registry import ZERO, Answers, vjp
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
    if n.wanted != {0}:
        n.refuse("its parameters depend on the layer")
    deviation = n.b.map("Sqrt", n.input(4) + n.attribute("epsilon", 1e-5))
    return (g * _per_channel(n, n.input(1) / deviation), ZERO, ZERO, ZERO, ZERO)


def _centred(n: Site, x: Value, axes: list[int]) -> tuple[Value, Value]:
    """Return the standardised x and the inverse deviation."""
    centred = x - n.b.reduce(x, axes, mean=True)
    variance = n.b.reduce(centred * centred, axes, mean=True)
    deviation = n.b.map("Sqrt", variance + n.attribute("epsilon", 1e-5))
    return centred / deviation, deviation


def _standardised(n: Site, g: Value, unit: Value, deviation: Value, axes: list[int]) -> Value:
    along = unit * n.b.reduce(g * unit, axes, mean=True)
    return (g - n.b.reduce(g, axes, mean=True) - along) / deviation


@vjp("LayerNormalization", attributes=("axis", "epsilon", "stash_type"))
def _layer_normalization(n: Site, g: Value) -> Answers:
    axes = list(range(n.axis(-1, n.x.rank), n.x.rank))
    unit, deviation = _centred(n, n.x, axes)
    dx = _standardised(n, g * n.input(1), unit, deviation, axes)
    return (dx, g * unit, g)[: len(n.node.input)]


@vjp("InstanceNormalization", attributes=("epsilon",))
def _instance_normalization(n: Site, g: Value) -> Answers:
    if n.wanted != {0}:
        n.refuse("its parameters depend on the layer")
    axes = list(range(2, n.x.rank))
    unit, deviation = _centred(n, n.x, axes)
    scaled = g * _per_channel(n, n.input(1))
    return _standardised(n, scaled, unit, deviation, axes), ZERO, ZERO


def softmax_axes(n: Site) -> list[int]:
    """Return the axes over which a softmax sums: all from `axis` on before opset 13."""
    if n.opset < 13:
        return list(range(n.axis(1, n.y.rank), n.y.rank))
    return [n.axis(-1, n.y.rank)]


@vjp("Softmax", attributes=("axis",))
def _softmax(n: Site, g: Value) -> Answers:
    return (n.y * (g - n.b.reduce(g * n.y, softmax_axes(n))),)


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
