"""The kit's fixed set of networks, with weights drawn from a seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.testing.network import Network, Node, Op

CLASSES = 5


@dataclass
class _Draft:
    """A network being written down: each call adds a node, draws its weights, returns its name."""

    inputs: Mapping[str, tuple[int, ...]]
    seed: int
    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.channels |= {name: shape[0] for name, shape in self.inputs.items()}

    def __call__(self, op: Op, name: str, *sources: str, **attributes: Any) -> str:
        self.nodes.append(Node(name, op, sources, attributes))
        self.channels[name] = self.channels[sources[0]]
        return name

    def _draw(self, key: str, shape: tuple[int, ...], mean: float, spread: float) -> None:
        # Rounded to half precision, so that a network computes with the same weights in any.
        drawn = self.rng.normal(mean, spread, shape).astype(np.float16)
        self.weights[key] = drawn.astype(np.float32)

    def conv(self, name: str, source: str, width: int, *kernel: int, **attributes: Any) -> str:
        fan_in = self.channels[source] * int(np.prod(kernel))
        self._draw(
            f"{name}.weight", (width, self.channels[source], *kernel), 0, (2 / fan_in) ** 0.5
        )
        self._draw(f"{name}.bias", (width,), 0, 0.1)
        self("conv", name, source, **attributes)
        self.channels[name] = width
        return name

    def dense(self, name: str, source: str, width: int, mean: float = 0.0) -> str:
        channels = self.channels[source]
        self._draw(f"{name}.weight", (width, channels), mean, channels**-0.5)
        self._draw(f"{name}.bias", (width,), 0, 0.1)
        self("dense", name, source)
        self.channels[name] = width
        return name

    def norm(self, op: Op, name: str, source: str) -> str:
        shape = (self.channels[source],)
        self._draw(f"{name}.weight", shape, 1, 0.2)
        self._draw(f"{name}.bias", shape, 0, 0.2)
        if op == "batchnorm":
            # Far from 0 and 1: a layer that took the batch's own statistics would be seen.
            self._draw(f"{name}.mean", shape, 0.3, 0.2)
            self._draw(f"{name}.variance", shape, 1.5, 0.1)
        return self(op, name, source)

    def head(self, source: str, name: str = "logits", prefix: str = "") -> str:
        pooled = self("gap", f"{prefix}gap" if name == "logits" else f"{prefix}gap_{name}", source)
        # More for than against, so that ReLU leaves something of every class's map.
        return self.dense(f"{prefix}{name}", pooled, CLASSES, mean=0.4)

    def finish(self, name: str, probes: tuple[str, ...], default: str, **more: Any) -> Network:
        return Network(
            name=name,
            inputs=self.inputs,
            nodes=tuple(self.nodes),
            weights=self.weights,
            probes=probes,
            **{"outputs": {"scores": self.nodes[-1].name}, "defaults": {"scores": default}, **more},
        )


def conv(seed: int = 0) -> Network:
    """Convolutions and poolings in a row on a picture that is not square, a softmax at the end."""
    d = _Draft({"image": (3, 20, 16)}, seed)
    x = d("maxpool", "pool1", d("relu", "relu1", d.conv("conv1", "image", 6, 3, 3)))
    x = d("relu", "relu2", d.conv("conv2", x, 8, 3, 3))
    d("softmax", "probabilities", d.head(x))
    return d.finish("conv", ("conv1", "relu1", "pool1", "conv2", "relu2"), "relu2")


def residual(seed: int = 1) -> Network:
    """Batch normalisation, a plain residual block, and one that halves the grid."""
    d = _Draft({"image": (3, 16, 16)}, seed)
    x = d("relu", "relu", d.norm("batchnorm", "norm", d.conv("stem", "image", 8, 3, 3)))
    x = d("maxpool", "pool", x)
    y = d("relu", "a_relu", d.norm("batchnorm", "a_norm", d.conv("a_conv", x, 8, 3, 3)))
    y = d.norm("batchnorm", "a_norm2", d.conv("a_conv2", y, 8, 3, 3))
    x = d("relu", "a_out", d("add", "a_add", y, x))
    y = d.conv("b_conv", x, 12, 2, 2, stride=2, padding=0)
    y = d("relu", "b_relu", d.norm("batchnorm", "b_norm", y))
    y = d.norm("batchnorm", "b_norm2", d.conv("b_conv2", y, 12, 3, 3))
    skip = d.norm("batchnorm", "s_norm", d.conv("s_conv", x, 12, 1, 1, stride=2, padding=0))
    d.head(d("relu", "b_out", d("add", "b_add", y, skip)))
    return d.finish("residual", ("pool", "a_conv2", "a_out", "s_norm", "b_out"), "b_out")


def nested(seed: int = 2) -> Network:
    """Modules within modules, two deep, and a convolution that stands outside."""
    d = _Draft({"image": (3, 16, 16)}, seed)
    x = d.conv("features.stem.conv", "image", 6, 3, 3)
    x = d("maxpool", "features.stem.pool", d("relu", "features.stem.relu", x))
    x = d("relu", "features.block.relu", d.conv("features.block.conv", x, 8, 3, 3))
    x = d("relu", "relu", d.conv("conv", x, 8, 3, 3))
    d.head(x, prefix="head.")
    probes = ("features.stem.relu", "features.block.conv", "conv", "relu")
    return d.finish("nested", probes, "relu")


def token(seed: int = 3) -> Network:
    """Patches of a picture that is not square, a class token, and two blocks of attention."""
    d = _Draft({"image": (3, 12, 16)}, seed)
    width = 8
    x = d("tokens", "tokens", d.conv("patches", "image", width, 4, 4, stride=4, padding=0))
    d._draw("class_token.weight", (1, 1, width), 0, 0.5)
    x = d("prepend", "class_token", x)
    d._draw("positions.weight", (1, 13, width), 0, 0.5)
    x = d("position", "positions", x)
    for block in ("a", "b"):
        y = d.norm("layernorm", f"{block}_norm1", x)
        q, k, v = (d.dense(f"{block}_{part}", y, width) for part in ("query", "key", "value"))
        y = d("attention", f"{block}_attention", q, k, v, heads=2)
        x = d("add", f"{block}_add1", x, d.dense(f"{block}_project", y, width))
        y = d.dense(f"{block}_widen", d.norm("layernorm", f"{block}_norm2", x), 2 * width)
        y = d.dense(f"{block}_narrow", d("relu", f"{block}_relu", y), width)
        x = d("add", f"{block}_add2", x, y)
    x = d("select", "class", d.norm("layernorm", "norm", x), index=0)
    d.dense("logits", x, CLASSES)
    probes = ("a_norm1", "a_project", "a_add2", "b_norm1", "b_project")
    return d.finish("token", probes, "a_add2", fold=(1, (3, 4)))


def one_dimensional(seed: int = 4) -> Network:
    """A signal of two channels."""
    d = _Draft({"signal": (2, 64)}, seed)
    x = d("maxpool", "pool1", d("relu", "relu1", d.conv("conv1", "signal", 6, 5)))
    d.head(d("relu", "relu2", d.conv("conv2", x, 8, 3)))
    return d.finish("one_dimensional", ("relu1", "pool1", "relu2"), "relu2")


def three_dimensional(seed: int = 5) -> Network:
    """A volume whose three extents differ."""
    d = _Draft({"volume": (1, 8, 10, 12)}, seed)
    # Pooled before ReLU: among equal zeros no one cell is the largest, and frameworks differ.
    x = d("maxpool", "pool1", d.conv("conv1", "volume", 4, 3, 3, 3))
    x = d("relu", "relu1", x)
    d.head(d("relu", "relu2", d.conv("conv2", x, 6, 3, 3, 3)))
    return d.finish("three_dimensional", ("conv1", "pool1", "relu2"), "relu2")


def two_inputs(seed: int = 6) -> Network:
    """Two pictures, each with a convolution of its own, then joined."""
    d = _Draft({"left": (3, 16, 12), "right": (1, 16, 12)}, seed)
    left = d("relu", "relu_left", d.conv("conv_left", "left", 4, 3, 3))
    right = d("relu", "relu_right", d.conv("conv_right", "right", 3, 3, 3))
    x = d("concat", "joined", left, right)
    d.channels[x] = 7
    d.head(d("relu", "relu", d.conv("conv", x, 8, 3, 3)))
    return d.finish("two_inputs", ("relu_left", "relu_right", "joined", "relu"), "relu")


def dict_output(seed: int = 7) -> Network:
    """Scores, and further ones from an earlier map, returned by name."""
    d = _Draft({"image": (3, 16, 16)}, seed)
    early = d("relu", "relu1", d.conv("conv1", "image", 6, 3, 3))
    late = d("relu", "relu2", d.conv("conv2", d("maxpool", "pool1", early), 8, 3, 3))
    side, main = d.head(early, "side"), d.head(late)
    return d.finish(
        "dict_output",
        ("conv1", "relu1", "relu2"),
        "relu2",
        outputs={"logits": main, "side": side},
        defaults={"logits": "relu2", "side": "relu1"},
        keyed=True,
    )


def float16(seed: int = 8) -> Network:
    """Half precision throughout; linear after its only ReLU, where rounding could flip signs."""
    d = _Draft({"image": (3, 16, 16)}, seed)
    x = d("relu", "relu1", d.conv("conv1", "image", 8, 3, 3))
    d.head(d.conv("conv2", x, 8, 3, 3))
    return d.finish("float16", ("relu1", "conv2"), "conv2", dtype="float16")


def partial_output(seed: int = 9) -> Network:
    """Two pictures, and an output beside the joint one that reads the left one only."""
    d = _Draft({"left": (3, 8, 8), "right": (1, 8, 8)}, seed)
    left = d("relu", "relu_left", d.conv("conv_left", "left", 4, 3, 3))
    right = d("relu", "relu_right", d.conv("conv_right", "right", 4, 3, 3))
    side, main = d.head(left, "side"), d.head(d("add", "sum", left, right))
    return d.finish(
        "partial_output",
        ("relu_left", "sum"),
        "sum",
        outputs={"logits": main, "side": side},
        defaults={"logits": "sum", "side": "relu_left"},
        keyed=True,
    )


def without_relu(seed: int = 10) -> Network:
    """A convolution and a dense layer, with nothing that the guided rule could act on."""
    d = _Draft({"image": (3, 8, 8)}, seed)
    d.head(d.conv("conv", "image", 6, 3, 3))
    return d.finish("without_relu", ("conv",), "conv")


def rounded(seed: int = 11) -> Network:
    """A convolution of small whole numbers, so that half precision flips no sign before ReLU."""
    d = _Draft({"image": (3, 8, 8)}, seed)
    d.head(d("relu", "relu", d.conv("conv", "image", 8, 3, 3)))
    d.weights["conv.weight"] = d.rng.integers(-1, 2, (8, 3, 3, 3)).astype(np.float32)
    # Sums of whole inputs up to 3 and a half: at most 81.5, never 0, eight bits.
    d.weights["conv.bias"] = np.full(8, 0.5, np.float32)
    d.weights["logits.weight"][:, ::2] *= -1
    return d.finish("rounded", ("conv", "relu"), "relu")


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "conv": conv,
    "residual": residual,
    "nested": nested,
    "token": token,
    "1-D": one_dimensional,
    "3-D": three_dimensional,
    "two inputs": two_inputs,
    "dict output": dict_output,
    "fp16": float16,
}
"""Every network that the kit asks an adapter for."""


def inputs_of(network: Network, count: int = 4, *, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """Draw (count, C, *grid) float32 inputs in [0, 1), by name."""
    rng = np.random.default_rng(seed)
    return {name: rng.random((count, *shape), np.float32) for name, shape in network.inputs.items()}
