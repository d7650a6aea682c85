"""The CAM methods as ONNX operators: what `gradcam_multi.cam.methods` says, node for node.

`a` and `g` are (N, C, P) float32, activations and gradients, P the cells of the grid; each
function returns the signed map, (N, 1, P).
"""

from collections.abc import Callable

from onnx import TensorProto

from gradcam_multi_onnx.autodiff.builder import Builder
from gradcam_multi_onnx.autodiff.values import Value

Combine = Callable[[Builder, Value, Value], Value]


def quotient(b: Builder, one: Value, other: Value) -> Value:
    """Divide; zero where the divisor is."""
    empty = b.map("Equal", other, 0.0, dtype=TensorProto.BOOL)
    return b.where(empty, 0.0, one / b.where(empty, 1.0, other))


def _relu(b: Builder, value: Value) -> Value:
    return b.map("Relu", value)


def _weighted(b: Builder, weights: Value, a: Value) -> Value:
    """Sum over channels, each times its weight: (N, C, 1), (N, C, P) -> (N, 1, P)."""
    return b.matmul(b.transpose(weights, (0, 2, 1)), a)


def _gradcam(b: Builder, a: Value, g: Value) -> Value:
    return _weighted(b, b.reduce(g, [2], mean=True), a)


def _gradcam_plus_plus(b: Builder, a: Value, g: Value) -> Value:
    shape = (g.shape[0], 1, 1)
    scale = b.op("ReduceMax", b.map("Abs", g), b.integers([1, 2]), shape=shape, keepdims=1)
    unit = quotient(b, g, scale)
    share = quotient(b, _relu(b, unit), unit * b.reduce(a, [2]) + 2.0)
    return _weighted(b, b.reduce(share, [2]) * scale, a)


def _hirescam(b: Builder, a: Value, g: Value) -> Value:
    return b.reduce(g * a, [1])


def _layercam(b: Builder, a: Value, g: Value) -> Value:
    return b.reduce(_relu(b, g) * a, [1])


def _xgradcam(b: Builder, a: Value, g: Value) -> Value:
    return _weighted(b, quotient(b, b.reduce(g * a, [2]), b.reduce(a, [2])), a)


def _elementwise(b: Builder, a: Value, g: Value) -> Value:
    return b.reduce(_relu(b, g * a), [1])


MAPS: dict[str, Combine] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "hirescam": _hirescam,
    "layercam": _layercam,
    "xgradcam": _xgradcam,
    "gradcam-elementwise": _elementwise,
}
"""Methods that a heatmap file can have; all of them cut negative evidence."""
