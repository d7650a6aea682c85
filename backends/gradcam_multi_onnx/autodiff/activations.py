"""Activations that several rules compute from the same value, written once."""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from gradcam_multi_onnx.autodiff.values import Value

_STEEP = float(np.finfo(np.float32).max)


def through_relu(y: Value, g: Value) -> Value:
    """Return g where the result y of a ReLU is positive, else 0: 0 at 0, as frameworks have it."""
    b = y.builder
    if g.name in b.rectified:
        return g
    if b.local is None or g.dtype != TensorProto.FLOAT or not b.finite.holds(g.name):
        return b.masked(g, y > 0)
    # min(max(steep * y, 0), 1): one node, a third faster than a comparison and a cast, and less
    # than 1 below 3e-39 alone. Read in half precision, as files may be, it would be infinite.
    return g * b.map("HardSigmoid", y, alpha=_STEEP, beta=0.0)


def sigmoid(x: Value) -> Value:
    """Return 1 / (1 + exp(-x))."""
    return _once("sigmoid", x, lambda: x.builder.map("Sigmoid", x))


def swish(x: Value) -> Value:
    """Return x times its sigmoid."""
    return _once("swish", x, lambda: x * sigmoid(x))


def swish_slope(x: Value) -> Value:
    """Return the derivative s (1 + x (1 - s)) with the sigmoid s, sharing what `swish` writes."""
    return (x - swish(x) + 1) * sigmoid(x)


def _once(what: str, x: Value, make: Callable[[], Value]) -> Value:
    written = x.builder.written
    if (what, x.name) not in written:
        written[what, x.name] = make()
    return written[what, x.name]
