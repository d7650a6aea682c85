"""Convolutional classifiers beyond `architectures_torch`, small; all take (N, 3, 64, 64).

A module called `early` or `last` marks the two feature maps that the tests explain.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:  # fmt: skip
    """A convolution padded to keep the grid, its normalisation and an activation."""
    parts: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*parts, *([act()] if act else []))


def pooled_head(width: int, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Staged(nn.Module):
    """A stem, a body and a head: the feature maps are the first two's results."""

    def __init__(self, early: nn.Module, last: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.early, self.last, self.head = early, last, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.early(x)))


def lenet() -> nn.Module:
    """Tanh and average pooling."""
    early = nn.Sequential(nn.Conv2d(3, 6, 5), nn.Tanh())
    last = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh())
    head = nn.Sequential(
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 13 * 13, 84), nn.Tanh(), nn.Linear(84, 10)
    )
    return Staged(early, last, head)


def alexnet() -> nn.Module:
    """Large strides, overlapping pooling, dropout between dense layers."""
    early = nn.Sequential(nn.Conv2d(3, 16, 11, 4, 2), nn.ReLU())
    last = nn.Sequential(
        nn.MaxPool2d(3, 2), nn.Conv2d(16, 24, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 24, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
    head = nn.Sequential(
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(24, 32), nn.ReLU(),
        nn.Dropout(), nn.Linear(32, 10),
    )  # fmt: skip
    return Staged(early, last, head)


class SqueezeExcite(nn.Module):
    """A gate per channel, from the channel's mean."""

    def __init__(
        self, width: int, inner: int, act: type[nn.Module] = nn.ReLU,
        gate: type[nn.Module] = nn.Sigmoid,
    ) -> None:  # fmt: skip
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, inner, 1), act(), nn.Conv2d(inner, width, 1),
            gate(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Residual(nn.Module):
    """A residual sum around any branch, then an activation."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.branch(x) + self.shortcut(x))


def bottleneck(
    inputs: int, width: int, outputs: int, stride: int = 1, groups: int = 1, squeeze: int = 0
) -> Residual:
    """ResNet's, ResNeXt's (groups), SE-ResNet's and RegNet's (squeeze)."""
    gate = SqueezeExcite(outputs, squeeze) if squeeze else nn.Identity()
    branch = nn.Sequential(
        conv_norm(inputs, width, 1), conv_norm(width, width, 3, stride, groups),
        conv_norm(width, outputs, 1, act=None), gate,
    )  # fmt: skip
    same = stride == 1 and inputs == outputs
    shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride, act=None)
    return Residual(branch, shortcut, nn.ReLU())


def resnext() -> nn.Module:
    """Grouped 3x3 convolutions."""
    body = nn.Sequential(
        nn.MaxPool2d(3, 2, 1), bottleneck(16, 16, 32, groups=4), bottleneck(32, 32, 64, 2, 8)
    )
    return Staged(conv_norm(3, 16, 7, 2), body, pooled_head(64))


def se_resnet() -> nn.Module:
    """Squeeze-and-excitation before the residual sum."""
    body = nn.Sequential(
        nn.MaxPool2d(3, 2, 1), bottleneck(16, 8, 32, squeeze=4), bottleneck(32, 16, 64, 2, 1, 4)
    )
    return Staged(conv_norm(3, 16, 7, 2), body, pooled_head(64))


def regnet() -> nn.Module:
    """Groups of fixed width, squeeze-and-excitation, stride at every stage."""
    body = nn.Sequential(
        bottleneck(16, 24, 24, 2, 3, 4), bottleneck(24, 48, 48, 2, 6, 6), bottleneck(48, 48, 48)
    )
    return Staged(conv_norm(3, 16, 3, 2), body, pooled_head(48))


class BasicBlock(nn.Sequential):
    """ResNet-18's two convolutions."""


def resnet18() -> nn.Module:
    """Basic blocks of two convolutions."""

    def block(inputs: int, outputs: int, stride: int) -> Residual:
        branch = BasicBlock(
            conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs, act=None)
        )
        same = stride == 1 and inputs == outputs
        shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride, act=None)
        return Residual(branch, shortcut, nn.ReLU())

    body = nn.Sequential(nn.MaxPool2d(3, 2, 1), block(16, 16, 1), block(16, 32, 2))
    return Staged(conv_norm(3, 16, 7, 2), body, pooled_head(32))


class PreActivation(nn.Module):
    """ResNet v2's and Wide ResNet's: normalise and activate first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


def wide_resnet() -> nn.Module:
    """Pre-activation blocks: batch normalisations that no convolution can take in."""
    body = nn.Sequential(
        PreActivation(24), nn.AvgPool2d(2), PreActivation(24), nn.BatchNorm2d(24), nn.ReLU()
    )
    return Staged(nn.Conv2d(3, 24, 3, 2, 1), body, pooled_head(24))


class Branches(nn.Module):
    """Parallel branches, concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def googlenet() -> nn.Module:
    """Local response normalisation in the stem, then inception blocks pooled with ceil_mode."""

    def block(inputs: int) -> Branches:
        def conv(i: int, o: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(i, o, kernel, padding=kernel // 2), nn.ReLU())

        return Branches(
            conv(inputs, 8, 1), nn.Sequential(conv(inputs, 6, 1), conv(6, 12, 3)),
            nn.Sequential(conv(inputs, 4, 1), conv(4, 8, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(inputs, 4, 1)),
        )  # fmt: skip

    early = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3), nn.ReLU())
    body = nn.Sequential(
        nn.MaxPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(5, 0.5, 0.75, 1.0),
        nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.LocalResponseNorm(5, 0.5),
        nn.MaxPool2d(3, 2, ceil_mode=True), block(24), nn.MaxPool2d(3, 2, ceil_mode=True),
        block(32),
    )  # fmt: skip
    return Staged(early, body, pooled_head(32))


def inception_v3() -> nn.Module:
    """Factorised 1x7 and 7x1 convolutions, strided grids, padded average pooling."""

    def conv(i: int, o: int, kernel: tuple[int, int] | int, stride: int = 1) -> nn.Sequential:
        size = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        pad = (size[0] // 2, size[1] // 2) if stride == 1 else 0
        return nn.Sequential(
            nn.Conv2d(i, o, size, stride, pad, bias=False), nn.BatchNorm2d(o, 1e-3), nn.ReLU()
        )

    body = nn.Sequential(
        nn.MaxPool2d(3, 2),
        Branches(conv(12, 8, 1), nn.Sequential(conv(12, 6, 1), conv(6, 8, (1, 7)),
                 conv(8, 8, (7, 1))), nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(12, 8, 1))),
        Branches(conv(24, 12, 3, 2), nn.Sequential(conv(24, 8, 1), conv(8, 12, 3, 2)),
                 nn.MaxPool2d(3, 2)),
        Branches(Branches(conv(48, 8, (1, 3)), conv(48, 8, (3, 1))), conv(48, 16, 1)),
    )  # fmt: skip
    return Staged(conv(3, 12, 3, 2), body, pooled_head(32))


def darknet() -> nn.Module:
    """Leaky ReLUs, cross-stage partial branches, spatial pyramid pooling."""

    def conv(i: int, o: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(conv_norm(i, o, kernel, stride, act=None), nn.LeakyReLU(0.1))

    partial = Branches(conv(32, 16), nn.Sequential(conv(32, 16), conv(16, 16, 3)))
    pyramid = Branches(nn.Identity(), nn.MaxPool2d(5, 1, 2), nn.MaxPool2d(9, 1, 4))
    body = nn.Sequential(conv(16, 32, 3, 2), partial, pyramid, conv(96, 32))
    return Staged(conv(3, 16, 3, 2), body, pooled_head(32))


def activations() -> nn.Module:
    """Activations that few networks use, one after another, and generalised poolings."""
    kinds: Sequence[nn.Module] = (
        nn.ELU(), nn.SELU(), nn.CELU(0.8), nn.Softplus(), nn.Mish(), nn.PReLU(16), nn.Softsign(),
        nn.GELU(), nn.GELU("tanh"), nn.LogSigmoid(), nn.Hardtanh(-0.7, 0.9), nn.Softmax2d(),
    )  # fmt: skip
    body = nn.Sequential(*(
        part for act in kinds for part in (nn.Conv2d(16, 16, 1), nn.InstanceNorm2d(16), act)
    ))  # fmt: skip
    head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return Staged(nn.Sequential(nn.Conv2d(3, 16, 3, 4), nn.Hardswish()), body, head)


CLASSIC = {
    build.__name__: build
    for build in (
        lenet, alexnet, resnet18, resnext, se_resnet, regnet, wide_resnet, googlenet, inception_v3,
        darknet, activations,
    )
}  # fmt: skip
"""Builders by name."""
