"""Published networks at full size, each written once and built in two frameworks.

A program is a function of an `ops` object and a picture, 224x224; `TorchOps` and `KerasOps` run it.
Weights are random and come from a layer's name, so that they are the same in both frameworks. The
last layer returns logits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

CLASSES = 1000
SIDE = 224
Program = Callable[[Any, Any], Any]


def normal(name: str, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Return the float32 array of this name, always the same."""
    rng = np.random.default_rng(crc32(name.encode()))
    return rng.standard_normal(shape, np.float32) * np.float32(scale)


def inputs(batch: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Return (batch, 3, side, side) float32 pictures of noise."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, 3, side, side), np.float32)


def conv_norm(
    ops: Any, x: Any, name: str, sizes: tuple[int, int], kernel: int = 1, *, stride: int = 1,
    groups: int = 1, act: str | None = "relu",
) -> Any:  # fmt: skip
    x = ops.conv(x, name, sizes, kernel, stride=stride, groups=groups, bias=False)
    x = ops.norm(x, f"{name}_norm", sizes[1])
    return x if act is None else ops.act(x, f"{name}_{act}", act)


def _residual(ops: Any, x: Any, counts: tuple[int, ...], deep: bool) -> Any:
    """Stages of residual blocks, of two 3x3 convolutions or, deep, of three with four times out."""
    x = ops.maxpool(conv_norm(ops, x, "stem", (3, 64), 7, stride=2), "pool", 3, 2)
    inputs = 64
    for stage, count in enumerate(counts, start=1):
        width = 32 * 2**stage
        for block in range(count):
            name, stride = f"layer{stage}_{block}", 2 if block == 0 and stage > 1 else 1
            outputs, y = 4 * width if deep else width, x
            if deep:
                y = conv_norm(ops, y, f"{name}_a", (inputs, width))
                y = conv_norm(ops, y, f"{name}_b", (width, width), 3, stride=stride)
                y = conv_norm(ops, y, f"{name}_c", (width, outputs), act=None)
            else:
                y = conv_norm(ops, y, f"{name}_a", (inputs, width), 3, stride=stride)
                y = conv_norm(ops, y, f"{name}_b", (width, width), 3, act=None)
            if inputs != outputs:
                sizes = (inputs, outputs)
                x = conv_norm(ops, x, f"{name}_skip", sizes, stride=stride, act=None)
            inputs = outputs
            x = ops.act(ops.add(y, x), f"{name}_out", "relu")
    return ops.dense(ops.mean(x), "logits", inputs, CLASSES)


def resnet50(ops: Any, x: Any) -> Any:
    return _residual(ops, x, (3, 4, 6, 3), deep=True)


def resnet18(ops: Any, x: Any) -> Any:
    return _residual(ops, x, (2, 2, 2, 2), deep=False)


def squeezenet(ops: Any, x: Any) -> Any:
    """Version 1.1, its poolings padded instead of rounded up."""
    x = ops.act(ops.conv(x, "stem", (3, 64), 3, stride=2, pad=False), "stem_relu", "relu")
    inputs = 64
    for index, width in enumerate((64, 64, 128, 128, 192, 192, 256, 256)):
        if index in (0, 2, 4):
            x = ops.maxpool(x, f"pool{index}", 3, 2)
        name = f"fire{index}"
        x = ops.act(ops.conv(x, name, (inputs, width // 4)), f"{name}_relu", "relu")
        y = ops.act(ops.conv(x, f"{name}_1x1", (width // 4, width)), f"{name}_1x1_relu", "relu")
        z = ops.conv(x, f"{name}_3x3", (width // 4, width), 3)
        x = ops.concat(y, ops.act(z, f"{name}_3x3_relu", "relu"))
        inputs = 2 * width
    return ops.mean(ops.act(ops.conv(x, "classes", (inputs, CLASSES)), "classes_relu", "relu"))


def vgg16(ops: Any, x: Any) -> Any:
    inputs = 3
    for stage, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        for index in range(count):
            name = f"conv{stage + 1}_{index + 1}"
            x = ops.act(ops.conv(x, name, (inputs, width), 3), f"{name}_relu", "relu")
            inputs = width
        x = ops.maxpool(x, f"pool{stage + 1}", 2, 2)
    x = ops.act(ops.dense(ops.flatten(x), "fc1", 25088, 4096), "fc1_relu", "relu")
    x = ops.act(ops.dense(x, "fc2", 4096, 4096), "fc2_relu", "relu")
    return ops.dense(x, "logits", 4096, CLASSES)


def densenet121(ops: Any, x: Any) -> Any:
    x = ops.maxpool(conv_norm(ops, x, "stem", (3, 64), 7, stride=2), "pool", 3, 2)
    width = 64
    for stage, count in enumerate((6, 12, 24, 16)):
        for index in range(count):
            name = f"dense{stage}_{index}"
            y = ops.act(ops.norm(x, f"{name}_norm", width), f"{name}_relu", "relu")
            y = conv_norm(ops, y, f"{name}_a", (width, 128))
            x = ops.concat(x, ops.conv(y, f"{name}_b", (128, 32), 3, bias=False))
            width += 32
        if stage < 3:
            name = f"transition{stage}"
            x = ops.act(ops.norm(x, f"{name}_norm", width), f"{name}_relu", "relu")
            x = ops.conv(x, name, (width, width // 2), bias=False)
            x, width = ops.avgpool(x, f"{name}_pool", 2), width // 2
    x = ops.act(ops.norm(x, "final_norm", width), "final_relu", "relu")
    return ops.dense(ops.mean(x), "logits", width, CLASSES)


# Expansion, channels, repeats, stride, kernel.
_V2 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3),
       (6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3))  # fmt: skip
_B0 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
       (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip


def _inverted(ops: Any, x: Any, rows: Any, act: str, gated: bool) -> Any:
    x = conv_norm(ops, x, "stem", (3, 32), 3, stride=2, act=act)
    inputs = 32
    for row, (expand, width, count, step, kernel) in enumerate(rows):
        for index in range(count):
            name, stride, inner = f"block{row}_{index}", 1 if index else step, inputs * expand
            y = x
            if expand > 1:
                y = conv_norm(ops, y, f"{name}_expand", (inputs, inner), act=act)
            y = conv_norm(
                ops, y, f"{name}_depth", (inner, inner), kernel,
                stride=stride, groups=inner, act=act,
            )  # fmt: skip
            if gated:
                squeezed = inputs // 4
                gate = ops.conv(ops.mean(y, keep=True), f"{name}_squeeze", (inner, squeezed))
                gate = ops.act(gate, f"{name}_squeeze_{act}", act)
                gate = ops.conv(gate, f"{name}_excite", (squeezed, inner))
                y = ops.multiply(y, ops.act(gate, f"{name}_gate", "sigmoid"))
            y = conv_norm(ops, y, f"{name}_project", (inner, width), act=None)
            x = ops.add(y, x) if stride == 1 and inputs == width else y
            inputs = width
    x = conv_norm(ops, x, "head", (inputs, 1280), act=act)
    return ops.dense(ops.mean(x), "logits", 1280, CLASSES)


def mobilenet_v2(ops: Any, x: Any) -> Any:
    return _inverted(ops, x, _V2, "relu6", gated=False)


def efficientnet_b0(ops: Any, x: Any) -> Any:
    return _inverted(ops, x, _B0, "silu", gated=True)


def vit_s16(ops: Any, x: Any) -> Any:
    width, heads = 384, 6
    x = ops.tokens(ops.conv(x, "patches", (3, width), 16, stride=16, pad=False), width)
    x = ops.class_token(x, "class_token", width)
    x = ops.positions(x, "positions", (SIDE // 16) ** 2 + 1, width)
    for index in range(12):
        y = ops.layer_norm(x, f"block{index}_norm1", width)
        y = ops.attention(ops.dense(y, f"block{index}_qkv", width, 3 * width), width, heads)
        x = ops.add(x, ops.dense(y, f"block{index}_proj", width, width))
        y = ops.layer_norm(x, f"block{index}_norm2", width)
        y = ops.act(
            ops.dense(y, f"block{index}_fc1", width, 4 * width), f"block{index}_gelu", "gelu"
        )
        x = ops.add(x, ops.dense(y, f"block{index}_fc2", 4 * width, width))
    return ops.dense(ops.first(ops.layer_norm(x, "norm", width)), "logits", width, CLASSES)


def growing(channels: int = 64, classes: int = 10) -> Program:
    """A light network whose final map has `channels` channels at an eighth of the side."""

    def program(ops: Any, x: Any) -> Any:
        x = conv_norm(ops, x, "stem", (3, 16), 3, stride=2)
        x = conv_norm(ops, x, "a", (16, 32), 3, stride=2)
        x = conv_norm(ops, x, "b", (32, 64), 3, stride=2)
        x = conv_norm(ops, x, "last", (64, channels))
        return ops.dense(ops.mean(x), "logits", channels, classes)

    return program


class Network(NamedTuple):
    """A program, and its final feature map as peers are told: a layer's name."""

    program: Program
    layer: str


NETWORKS = {
    "ResNet-50": Network(resnet50, "layer4_2_out"),
    "MobileNetV2": Network(mobilenet_v2, "head_relu6"),
    "VGG-16": Network(vgg16, "conv5_3_relu"),
    "DenseNet-121": Network(densenet121, "final_relu"),
    "EfficientNet-B0": Network(efficientnet_b0, "head_silu"),
    "ViT-S": Network(vit_s16, "block11_norm1"),
}
"""The networks whose prices are compared, by name."""

SINGLE = {"ResNet-18": resnet18, "SqueezeNet": squeezenet}
"""Networks of which a single price is asked for, by name."""

CONVOLUTIONAL = tuple(name for name in NETWORKS if name != "ViT-S")


def program_of(name: str) -> Program:
    return SINGLE[name] if name in SINGLE else NETWORKS[name].program
