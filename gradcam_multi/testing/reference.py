"""Slow, obvious NumPy forward and backward of a described network, in float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.demo.networks import DemoLayer, DemoNetwork

Vector = NDArray[np.floating[Any]]


def probe_network(
    *, seed: int = 0, scale: float = 1.0, softmax: bool = False, dense: str = "signed"
) -> DemoNetwork:
    """Make a small network of random weights: conv, relu, pool, conv, relu, gap, dense.

    It takes (N, 3, 16, 16) and tells 5 classes. `scale` multiplies the logits. `dense` is
    "signed", or "negative" (every channel counts against every class), or "zero".
    """
    rng = np.random.default_rng(seed)
    weights = {
        "conv1.weight": rng.normal(0, 0.3, (6, 3, 3, 3)),
        "conv1.bias": rng.normal(0, 0.1, 6),
        "conv2.weight": rng.normal(0, 0.3, (8, 6, 3, 3)),
        "conv2.bias": rng.normal(0, 0.1, 8),
        # More for than against, so that ReLU leaves something of every class's map.
        "logits.weight": rng.normal(0.8, 1, (5, 8)),
        "logits.bias": rng.normal(0, 0.1, 5),
    }
    if dense == "negative":
        weights["logits.weight"] = -np.abs(weights["logits.weight"])
    if dense == "zero":
        weights["logits.weight"] = np.zeros((5, 8))
    for name in ("logits.weight", "logits.bias"):
        weights[name] = weights[name] * scale
    layers = [
        DemoLayer("conv1", "conv"),
        DemoLayer("relu1", "relu"),
        DemoLayer("pool1", "maxpool"),
        DemoLayer("conv2", "conv"),
        DemoLayer("relu2", "relu"),
        DemoLayer("gap", "gap"),
        DemoLayer("logits", "dense"),
    ]
    if softmax:
        layers.append(DemoLayer("probabilities", "softmax"))
    return DemoNetwork(
        name="probe",
        classes=tuple("abcde"),
        input_size=(16, 16),
        preprocess="unit",
        layers=tuple(layers),
        weights={name: value.astype(np.float32) for name, value in weights.items()},
    )


def probe_inputs(count: int = 4, *, seed: int = 1) -> NDArray[np.float32]:
    """Make (count, 3, 16, 16) float32 inputs in [0, 1)."""
    return np.random.default_rng(seed).random((count, 3, 16, 16), np.float32)


class Reference:
    """Every tensor of a described network, (N, C, *grid) float64, and gradients to any of them."""

    def __init__(self, network: DemoNetwork, inputs: NDArray[np.float32]) -> None:
        self.layers: Sequence[DemoLayer] = network.layers
        self.weights = {name: w.astype(np.float64) for name, w in network.weights.items()}
        self.tensors = self._forward(network.layers, inputs.astype(np.float64))

    def _forward(self, layers: Sequence[DemoLayer], x: Vector) -> dict[str, Vector]:
        tensors = {}
        for layer in layers:
            x = tensors[layer.name] = self._apply(layer, x)
        return tensors

    def _apply(self, layer: DemoLayer, x: Vector) -> Vector:
        if layer.kind == "conv":
            bias = self.weights[f"{layer.name}.bias"][:, None, None]
            return _correlate(x, self.weights[f"{layer.name}.weight"]) + bias
        if layer.kind == "relu":
            return np.maximum(x, 0)
        if layer.kind == "maxpool":
            return np.asarray(_windows(x).max((3, 5)))
        if layer.kind == "gap":
            return np.asarray(x.mean((2, 3)))
        if layer.kind == "dense":
            return x @ self.weights[f"{layer.name}.weight"].T + self.weights[f"{layer.name}.bias"]
        exponential = np.exp(x - x.max(1, keepdims=True))
        softmax: Vector = exponential / exponential.sum(1, keepdims=True)
        return softmax

    @property
    def logits(self) -> Vector:
        """(N, classes), before the softmax where there is one."""
        return self.tensors["logits"]

    def vjp(self, cotangent: Vector, name: str) -> Vector:
        """Multiply an (N, classes) cotangent of the logits back to a layer's result."""
        names = [layer.name for layer in self.layers]
        start, stop = names.index("logits"), names.index(name)
        for position in range(start, stop, -1):
            layer, x = self.layers[position], self.tensors[names[position - 1]]
            cotangent = self._pull(layer, x, cotangent)
        return cotangent

    def _pull(self, layer: DemoLayer, x: Vector, g: Vector) -> Vector:
        if layer.kind == "conv":
            weight = self.weights[f"{layer.name}.weight"]
            return _correlate(g, weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
        if layer.kind == "relu":
            return g * (x > 0)
        if layer.kind == "maxpool":
            windows = _windows(x).transpose(0, 1, 2, 4, 3, 5)  # (N, C, H/2, W/2, 2, 2)
            flat = windows.reshape(*windows.shape[:4], 4)
            first = np.arange(4) == flat.argmax(-1)[..., None]  # of equal ones the first wins
            pulled: Vector = (first * g[..., None]).reshape(windows.shape)
            return pulled.transpose(0, 1, 2, 4, 3, 5).reshape(x.shape)
        if layer.kind == "gap":
            return np.broadcast_to(g[:, :, None, None] / (x.shape[2] * x.shape[3]), x.shape)
        return g @ self.weights[f"{layer.name}.weight"]

    def replay(self, name: str, activation: Vector) -> Vector:
        """Return the logits that another activation of a layer would give."""
        names = [layer.name for layer in self.layers]
        rest = self.layers[names.index(name) + 1 : names.index("logits") + 1]
        return self._forward(rest, activation)["logits"]


def _windows(x: Vector) -> Vector:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2)


def _correlate(x: Vector, weight: Vector) -> Vector:
    """3x3 correlation, stride 1, zero padding 1."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    out: Vector = np.einsum("nihwab,oiab->nohw", windows, weight)
    return out
