"""Activations that several rules compute from the same value, written once."""

from collections.abc import Callable

from gradcam_multi_onnx.autodiff.values import Value


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
