"""Published networks at full size with random weights, as ONNX files with a free batch."""

import io
import warnings
from collections.abc import Callable

import torch
from architectures_classic import Residual, Staged, conv_norm, pooled_head
from architectures_mobile import inverted
from architectures_torch import DenseBlock, resnet50, seeded
from torch import nn


def resnet18() -> nn.Module:
    """11.7 million parameters."""

    def block(inputs: int, outputs: int, stride: int) -> Residual:
        branch = nn.Sequential(
            conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs, act=None)
        )
        same = stride == 1 and inputs == outputs
        shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride, act=None)
        return Residual(branch, shortcut, nn.ReLU())

    widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    body = [part for i, o, s in widths for part in (block(i, o, s), block(o, o, 1))]
    last = nn.Sequential(nn.MaxPool2d(3, 2, 1), *body)
    return Staged(conv_norm(3, 64, 7, 2), last, pooled_head(512, 1000))


def vgg16() -> nn.Module:
    """138 million parameters, most of them in the dense layers."""
    parts: list[nn.Module] = []
    inputs = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            parts += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        parts.append(nn.MaxPool2d(2))
    head = nn.Sequential(
        parts.pop(), nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096),
        nn.ReLU(), nn.Linear(4096, 1000),
    )  # fmt: skip
    return Staged(nn.Sequential(*parts[:2]), nn.Sequential(*parts[2:]), head)


def densenet121() -> nn.Module:
    """8 million parameters, 120 convolutions."""
    parts: list[nn.Module] = [nn.MaxPool2d(3, 2, 1)]
    width = 64
    for index, count in enumerate((6, 12, 24, 16)):
        if index:
            width //= 2
            parts += [nn.BatchNorm2d(2 * width), nn.ReLU(), nn.Conv2d(2 * width, width, 1)]
            parts.append(nn.AvgPool2d(2))
        parts.append(DenseBlock(count, width, 32))
        width += 32 * count
    last = nn.Sequential(*parts, nn.BatchNorm2d(width), nn.ReLU())
    return Staged(conv_norm(3, 64, 7, 2), last, pooled_head(width, 1000))


def _inverted(
    rows: list[tuple[int, int, int, int, int]], act: type[nn.Module], gate: type[nn.Module] | None,
    stem: int, last: int,
) -> nn.Module:  # fmt: skip
    parts: list[nn.Module] = []
    inputs = stem
    for expand, outputs, count, stride, kernel in rows:
        for index in range(count):
            step = stride if index == 0 else 1
            parts.append(inverted(inputs, inputs * expand, outputs, kernel, step, act, gate))
            inputs = outputs
    body = nn.Sequential(*parts, conv_norm(inputs, last, 1, act=act))
    return Staged(conv_norm(3, stem, 3, 2, act=act), body, pooled_head(last, 1000))


def mobilenet_v2() -> nn.Module:
    """3.5 million parameters."""
    rows = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3),
            (6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3)]  # fmt: skip
    return _inverted(rows, nn.ReLU6, None, 32, 1280)


def efficientnet_b0() -> nn.Module:
    """4.6 million parameters; the gates' inner width is 8 throughout."""
    rows = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
            (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]  # fmt: skip
    return _inverted(rows, nn.SiLU, nn.Sigmoid, 32, 1280)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-50": resnet50,
    "MobileNetV2": mobilenet_v2,
    "DenseNet-121": densenet121,
    "EfficientNet-B0": efficientnet_b0,
    "VGG-16": vgg16,
    "ResNet-18": resnet18,
}
"""Builders by name."""


def exported(name: str) -> bytes:
    """Return a network as ONNX, for (N, 3, 224, 224)."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            seeded(MODELS[name]), (torch.zeros(2, 3, 224, 224),), stream, dynamo=False,
            opset_version=17, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        )  # fmt: skip
    return stream.getvalue()
