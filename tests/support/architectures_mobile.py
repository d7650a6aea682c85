"""Classifiers made of depthwise convolutions, small; all take (N, 3, 64, 64)."""

import torch
from architectures_classic import (
    Branches,
    Residual,
    SqueezeExcite,
    Staged,
    conv_norm,
    pooled_head,
)
from torch import Tensor, nn


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(inputs, inputs, 3, stride, inputs), conv_norm(inputs, outputs, 1)
    )


def mobilenet_v1() -> nn.Module:
    """Depthwise separable convolutions."""
    body = nn.Sequential(separable(16, 24), separable(24, 32, 2), separable(32, 48, 2))
    return Staged(conv_norm(3, 16, 3, 2), body, pooled_head(48))


def inverted(
    inputs: int, inner: int, outputs: int, kernel: int, stride: int, act: type[nn.Module],
    gate: type[nn.Module] | None = None,
) -> nn.Module:  # fmt: skip
    """MobileNet v3's, MNASNet's and EfficientNet's: expand, depthwise, gate, project."""
    squeeze = (
        SqueezeExcite(inner, 8, nn.SiLU if act is nn.SiLU else nn.ReLU, gate) if gate else None
    )
    branch = nn.Sequential(
        conv_norm(inputs, inner, 1, act=act), conv_norm(inner, inner, kernel, stride, inner, act),
        squeeze or nn.Identity(), conv_norm(inner, outputs, 1, act=None),
    )  # fmt: skip
    if stride == 1 and inputs == outputs:
        return Residual(branch, nn.Identity(), nn.Identity())
    return branch


def mobilenet_v3() -> nn.Module:
    """Hard swish, hard sigmoid gates, a dense layer before the classifier."""
    body = nn.Sequential(
        inverted(16, 32, 16, 3, 1, nn.ReLU, nn.Hardsigmoid),
        inverted(16, 48, 24, 5, 2, nn.Hardswish, nn.Hardsigmoid),
        inverted(24, 48, 24, 5, 1, nn.Hardswish, nn.Hardsigmoid),
        conv_norm(24, 64, 1, act=nn.Hardswish),
    )
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 48), nn.Hardswish(),
        nn.Dropout(0.2), nn.Linear(48, 10),
    )  # fmt: skip
    return Staged(conv_norm(3, 16, 3, 2, act=nn.Hardswish), body, head)


def mnasnet() -> nn.Module:
    """Inverted residuals with plain ReLUs and a separable stem."""
    body = nn.Sequential(
        separable(16, 16), inverted(16, 48, 24, 3, 2, nn.ReLU), inverted(24, 72, 24, 5, 1, nn.ReLU),
        conv_norm(24, 64, 1),
    )  # fmt: skip
    return Staged(conv_norm(3, 16, 3, 2), body, pooled_head(64))


def efficientnet() -> nn.Module:
    """SiLU and sigmoid gates."""
    body = nn.Sequential(
        inverted(16, 16, 16, 3, 1, nn.SiLU, nn.Sigmoid),
        inverted(16, 48, 24, 5, 2, nn.SiLU, nn.Sigmoid),
        inverted(24, 72, 24, 3, 1, nn.SiLU, nn.Sigmoid), conv_norm(24, 64, 1, act=nn.SiLU),
    )  # fmt: skip
    return Staged(conv_norm(3, 16, 3, 2, act=nn.SiLU), body, pooled_head(64))


class ShuffleUnit(nn.Module):
    """ShuffleNet v2's: half the channels pass, then all are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            conv_norm(half, half, 1), conv_norm(half, half, 3, 1, half, None),
            conv_norm(half, half, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = x.chunk(2, 1)
        x = torch.cat([kept, self.branch(moved)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> nn.Module:
    """Channel splits and shuffles."""
    down = Branches(
        nn.Sequential(conv_norm(16, 16, 3, 2, 16, None), conv_norm(16, 16, 1)),
        nn.Sequential(
            conv_norm(16, 16, 1), conv_norm(16, 16, 3, 2, 16, None), conv_norm(16, 16, 1)
        ),
    )
    body = nn.Sequential(
        nn.MaxPool2d(3, 2, 1), down, ShuffleUnit(32), ShuffleUnit(32), conv_norm(32, 48, 1)
    )
    return Staged(conv_norm(3, 16, 3, 2), body, pooled_head(48))


def xception() -> nn.Module:
    """Separable convolutions between residual shortcuts, activation first."""
    branch = nn.Sequential(
        nn.ReLU(), separable(24, 32)[0], nn.Conv2d(24, 32, 1), nn.MaxPool2d(3, 2, 1)
    )
    entry = Residual(branch, conv_norm(24, 32, 1, 2, act=None), nn.Identity())
    middle = Residual(
        nn.Sequential(nn.ReLU(), separable(32, 32)), nn.Identity(), nn.Identity()
    )  # fmt: skip
    return Staged(conv_norm(3, 24, 3, 2), nn.Sequential(entry, middle), pooled_head(32))


MOBILE = {
    build.__name__: build
    for build in (
        mobilenet_v1, mobilenet_v3, mnasnet, efficientnet, shufflenet, xception,
    )
}  # fmt: skip
"""Builders by name."""
