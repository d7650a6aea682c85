"""Architectures written once and built in two frameworks with the same weights.

A program is a function of an `ops` object and a picture; `Weights` runs it to draw random weights,
`TorchOps` and `KerasOps` run it to compute. Layers have the same names everywhere.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Program = Callable[[Any, Any], Any]
CLASSES = 7


def resnet(ops, x):
    x = ops.relu(ops.norm(ops.conv(x, "stem", 3, 16, 3, stride=2), "stem_norm", 16), "stem_relu")
    x = ops.maxpool(x, "stem_pool", 3, 2)
    for i, (inputs, width, stride) in enumerate([(16, 8, 1), (32, 16, 2), (64, 16, 1)]):
        skip = x
        y = ops.relu(ops.norm(ops.conv(x, f"b{i}a", inputs, width, 1), f"b{i}an", width), f"b{i}ar")
        y = ops.conv(y, f"b{i}b", width, width, 3, stride=stride)
        y = ops.relu(ops.norm(y, f"b{i}bn", width), f"b{i}br")
        y = ops.norm(ops.conv(y, f"b{i}c", width, 4 * width, 1), f"b{i}cn", 4 * width)
        if stride != 1 or inputs != 4 * width:
            skip = ops.conv(x, f"b{i}s", inputs, 4 * width, 1, stride=stride)
            skip = ops.norm(skip, f"b{i}sn", 4 * width)
        x = ops.relu(ops.add(y, skip, f"b{i}_add"), f"b{i}_out")
    return ops.dense(ops.gap(x, "gap"), "logits", 64, CLASSES)


def vgg(ops, x):
    channels = 3
    for i, width in enumerate((16, 24, 32)):
        for j in range(2):
            x = ops.conv(x, f"conv{i}_{j}", channels, width, 3)
            x, channels = ops.relu(x, f"relu{i}_{j}"), width
        x = ops.maxpool(x, f"pool{i}", 2, 2)
    x = ops.flatten(x, "flatten", (32, 8, 8))
    x = ops.relu(ops.dense(x, "fc1", 32 * 8 * 8, 48), "fc1_relu")
    return ops.dense(x, "logits", 48, CLASSES)


def mobilenet(ops, x):
    x = ops.relu6(ops.norm(ops.conv(x, "stem", 3, 16, 3, stride=2), "stem_norm", 16), "stem_relu")
    for i, (inputs, outputs, stride) in enumerate([(16, 16, 1), (16, 24, 2), (24, 24, 1)]):
        wide = 4 * inputs
        y = ops.norm(ops.conv(x, f"b{i}e", inputs, wide, 1), f"b{i}en", wide)
        y = ops.relu6(y, f"b{i}er")
        y = ops.norm(ops.depthwise(y, f"b{i}d", wide, 3, stride=stride), f"b{i}dn", wide)
        y = ops.relu6(y, f"b{i}dr")
        y = ops.norm(ops.conv(y, f"b{i}p", wide, outputs, 1), f"b{i}pn", outputs)
        x = ops.add(x, y, f"b{i}_add") if stride == 1 and inputs == outputs else y
    x = ops.relu6(ops.norm(ops.conv(x, "head", 24, 80, 1), "head_norm", 80), "head_relu")
    return ops.dense(ops.gap(x, "gap"), "logits", 80, CLASSES)


def densenet(ops, x):
    x = ops.conv(x, "stem", 3, 16, 3, stride=2)
    channels = 16
    for block in range(2):
        for i in range(3):
            y = ops.relu(ops.norm(x, f"d{block}{i}n", channels), f"d{block}{i}r")
            y = ops.conv(y, f"d{block}{i}a", channels, 32, 1)
            y = ops.relu(ops.norm(y, f"d{block}{i}m", 32), f"d{block}{i}s")
            y = ops.conv(y, f"d{block}{i}b", 32, 8, 3)
            x, channels = ops.concat(x, y, f"d{block}{i}_cat"), channels + 8
        if block == 0:
            x = ops.relu(ops.norm(x, "tn", channels), "tr")
            x = ops.avgpool(ops.conv(x, "t", channels, 20, 1), "tp", 2)
            channels = 20
    x = ops.relu(ops.norm(x, "final_norm", channels), "final_relu")
    return ops.dense(ops.gap(x, "gap"), "logits", channels, CLASSES)


PROGRAMS: dict[str, tuple[Program, str]] = {
    "resnet": (resnet, "b2_out"),
    "vgg": (vgg, "relu2_1"),
    "mobilenet": (mobilenet, "head_relu"),
    "densenet": (densenet, "final_relu"),
}
"""Each program, and the final feature map that the rule must choose."""


class Weights:
    """Runs a program on nothing, and draws every layer's weights; random statistics too, since
    zeros and ones would hide errors."""

    def __init__(self, program: Program, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.arrays: dict[str, list[np.ndarray]] = {}
        program(self, None)

    def _draw(self, name: str, shape: tuple[int, ...]) -> None:
        fan_in = int(np.prod(shape[1:]))
        weight = self.rng.normal(0, (2 / fan_in) ** 0.5, shape)
        bias = self.rng.normal(0, 0.05, shape[0])
        self.arrays[name] = [weight.astype(np.float32), bias.astype(np.float32)]

    def conv(self, x, name, inputs, outputs, kernel, stride=1):
        self._draw(name, (outputs, inputs, kernel, kernel))

    def depthwise(self, x, name, channels, kernel, stride=1):
        self._draw(name, (channels, 1, kernel, kernel))

    def dense(self, x, name, inputs, outputs):
        self._draw(name, (outputs, inputs))

    def norm(self, x, name, channels):
        draws = [
            self.rng.uniform(0.7, 1.3, channels),
            self.rng.normal(0, 0.2, channels),
            self.rng.normal(0, 0.2, channels),
            self.rng.uniform(0.7, 1.3, channels),
        ]
        self.arrays[name] = [draw.astype(np.float32) for draw in draws]

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *args: None


class TorchTwin(nn.Module):
    """A program in PyTorch; ReLUs work in place, as torchvision's do."""

    def __init__(self, program: Program, weights: Weights) -> None:
        super().__init__()
        self.program = program
        self.parts = nn.ModuleDict()
        self.arrays = weights.arrays
        program(self, None)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.program(self, x)

    def _part(self, name: str, make: Callable[[], nn.Module], x: Any) -> Any:
        if name not in self.parts:
            part = make()
            state = zip(part.state_dict(), self.arrays.get(name, []), strict=False)
            part.load_state_dict({k: torch.tensor(v) for k, v in state}, strict=False)
            self.parts[name] = part
        return None if x is None else self.parts[name](x)

    def conv(self, x, name, inputs, outputs, kernel, stride=1):
        return self._part(
            name, lambda: nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2), x
        )

    def depthwise(self, x, name, channels, kernel, stride=1):
        return self._part(
            name,
            lambda: nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels),
            x,
        )

    def dense(self, x, name, inputs, outputs):
        return self._part(name, lambda: nn.Linear(inputs, outputs), x)

    def norm(self, x, name, channels):
        return self._part(name, lambda: nn.BatchNorm2d(channels), x)

    def relu(self, x, name):
        return self._part(name, lambda: nn.ReLU(inplace=True), x)

    def relu6(self, x, name):
        return self._part(name, lambda: nn.ReLU6(inplace=True), x)

    def maxpool(self, x, name, kernel, stride):
        return self._part(name, lambda: nn.MaxPool2d(kernel, stride, padding=(kernel - 1) // 2), x)

    def avgpool(self, x, name, kernel):
        return self._part(name, lambda: nn.AvgPool2d(kernel), x)

    def add(self, x, y, name):
        return None if x is None else x + y

    def concat(self, x, y, name):
        return None if x is None else torch.cat([x, y], 1)

    def gap(self, x, name):
        return None if x is None else F.adaptive_avg_pool2d(x, 1).flatten(1)

    def flatten(self, x, name, shape):
        return None if x is None else x.flatten(1)


class KerasOps:
    """A program in Keras, channels last, with PyTorch's paddings made explicit."""

    def __init__(self, arrays: dict[str, list[np.ndarray]]) -> None:
        self.arrays = arrays
        self.set: list[tuple[Any, list[np.ndarray]]] = []

    def _weighted(self, layer, x, weights):
        self.set.append((layer, weights))
        return layer(x)

    def _padded(self, x, name, kernel):
        return keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x) if kernel > 1 else x

    def conv(self, x, name, inputs, outputs, kernel, stride=1):
        weight, bias = self.arrays[name]
        layer = keras.layers.Conv2D(outputs, kernel, stride, name=name)
        return self._weighted(
            layer, self._padded(x, name, kernel), [weight.transpose(2, 3, 1, 0), bias]
        )

    def depthwise(self, x, name, channels, kernel, stride=1):
        weight, bias = self.arrays[name]
        layer = keras.layers.DepthwiseConv2D(kernel, stride, name=name)
        return self._weighted(
            layer, self._padded(x, name, kernel), [weight.transpose(2, 3, 0, 1), bias]
        )

    def dense(self, x, name, inputs, outputs):
        weight, bias = self.arrays[name]
        return self._weighted(keras.layers.Dense(outputs, name=name), x, [weight.T, bias])

    def norm(self, x, name, channels):
        layer = keras.layers.BatchNormalization(epsilon=1e-5, name=name)
        return self._weighted(layer, x, self.arrays[name])

    def relu(self, x, name):
        return keras.layers.ReLU(name=name)(x)

    def relu6(self, x, name):
        return keras.layers.ReLU(6.0, name=name)(x)

    def maxpool(self, x, name, kernel, stride):
        # After a ReLU: a padding of zeros never wins over PyTorch's padding of -infinity.
        pad = (kernel - 1) // 2
        x = keras.layers.ZeroPadding2D(pad, name=f"{name}_pad")(x) if pad else x
        return keras.layers.MaxPooling2D(kernel, stride, name=name)(x)

    def avgpool(self, x, name, kernel):
        return keras.layers.AveragePooling2D(kernel, name=name)(x)

    def add(self, x, y, name):
        return keras.layers.Add(name=name)([x, y])

    def concat(self, x, y, name):
        return keras.layers.Concatenate(name=name)([x, y])

    def gap(self, x, name):
        return keras.layers.GlobalAveragePooling2D(name=name)(x)

    def flatten(self, x, name, shape):
        channels_first = keras.layers.Permute((3, 1, 2), name=f"{name}_permute")(x)
        return keras.layers.Flatten(name=name)(channels_first)


def keras_twin(program: Program, weights: Weights, side: int = 64) -> keras.Model:
    ops = KerasOps(weights.arrays)
    x = keras.Input((side, side, 3), name="image")
    model = keras.Model(x, program(ops, x))
    for layer, arrays in ops.set:
        layer.set_weights(arrays)
    return model
