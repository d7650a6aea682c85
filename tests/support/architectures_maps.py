"""Networks whose output is a map, boxes, or whose input is no picture; small."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from architectures_classic import Staged, conv_norm, pooled_head
from torch import Tensor, nn


class UNet(nn.Module):
    """Skip connections, transposed convolutions up, classes for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.down = conv_norm(3, 8), conv_norm(8, 16)
        self.deep = conv_norm(16, 24)
        self.up1, self.up2 = nn.ConvTranspose2d(24, 16, 2, 2), nn.ConvTranspose2d(16, 8, 3, 2, 1, 1)
        self.mid, self.last = conv_norm(32, 16), conv_norm(16, 8)
        self.classes = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.early(x)
        second = self.down(F.max_pool2d(first, 2))
        x = self.mid(torch.cat([self.up1(self.deep(F.max_pool2d(second, 2))), second], 1))
        return self.classes(self.last(torch.cat([self.up2(x), first], 1)))


class UNetResize(nn.Module):
    """A U-Net that grows by bilinear and nearest interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.down = conv_norm(3, 8), conv_norm(8, 16)
        self.deep, self.mid = conv_norm(16, 16), conv_norm(32, 16)
        self.last, self.classes = conv_norm(24, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.early(x)
        second = self.down(F.max_pool2d(first, 2))
        deep = self.deep(F.max_pool2d(second, 2))
        x = F.interpolate(deep, scale_factor=2.0, mode="nearest")
        x = self.mid(torch.cat([x, second], 1))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
        return self.classes(self.last(torch.cat([x, first], 1)))


class Upsampled(nn.Module):
    """Class scores resized to the picture."""

    def __init__(self, head: nn.Module, *, align: bool = False) -> None:
        super().__init__()
        self.head, self.align = head, align

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.head(x), (64, 64), mode="bilinear", align_corners=self.align)


def dilated_body() -> nn.Sequential:
    dilated = nn.Sequential(
        nn.Conv2d(24, 24, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(24), nn.ReLU()
    )
    return nn.Sequential(conv_norm(16, 24, 3, 2), conv_norm(24, 24, 3, 2), dilated)


def fcn() -> nn.Module:
    """A fully convolutional head, resized by bilinear interpolation."""
    head = nn.Sequential(conv_norm(24, 12), nn.Dropout(0.1), nn.Conv2d(12, 5, 1))
    return Staged(conv_norm(3, 16, 3, 2), dilated_body(), Upsampled(head))


class Pyramid(nn.Module):
    """DeepLab's: dilated convolutions beside a pooled branch that is resized back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(width, 8, 3, padding=rate, dilation=rate) for rate in (1, 3, 6)
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 8, 1), nn.ReLU())
        self.project = conv_norm(32, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [F.relu(branch(x)) for branch in self.branches]
        pooled = F.interpolate(self.pooled(x), x.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(torch.cat([*maps, pooled], 1))


def deeplab() -> nn.Module:
    """Atrous spatial pyramid pooling."""
    head = nn.Sequential(Pyramid(24), nn.Conv2d(12, 5, 1))
    return Staged(conv_norm(3, 16, 3, 2), dilated_body(), Upsampled(head, align=True))


class Yolo(nn.Module):
    """Two scales joined as a feature pyramid; boxes decoded on grids, with class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.early = conv_norm(3, 16, 3, 2, act=nn.SiLU)
        self.body = conv_norm(16, 24, 3, 2, act=nn.SiLU)
        self.last = conv_norm(24, 32, 3, 2, act=nn.SiLU)
        self.lateral = conv_norm(56, 24, 1, act=nn.SiLU)
        self.heads = nn.ModuleList([nn.Conv2d(24, 16, 1), nn.Conv2d(32, 16, 1)])
        self.register_buffer("anchors", torch.tensor([[[8.0, 12.0], [20.0, 10.0]]] * 2))

    def forward(self, x: Tensor) -> Tensor:
        middle = self.body(self.early(x))
        deep = self.last(middle)
        grown = F.interpolate(deep, scale_factor=2.0, mode="nearest")
        maps = [self.lateral(torch.cat([middle, grown], 1)), deep]
        return torch.cat([self.decode(i, f) for i, f in enumerate(maps)], 1)

    def decode(self, index: int, features: Tensor) -> Tensor:
        raw = self.heads[index](features)
        side, stride = (16, 4) if index == 0 else (8, 8)
        raw = raw.view(-1, 2, 8, side, side).permute(0, 1, 3, 4, 2).sigmoid()
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        grid = torch.stack([columns, rows], -1).float().view(1, 1, side, side, 2)
        centre = (raw[..., :2] * 2 - 0.5 + grid) * stride
        size = (raw[..., 2:4] * 2) ** 2 * self.anchors[index].view(1, 2, 1, 1, 2)
        return torch.cat([centre, size, raw[..., 4:]], -1).reshape(-1, 2 * side * side, 8)


class Ssd(nn.Module):
    """Heads on several grids; two outputs: box offsets, and class probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.body = conv_norm(3, 16, 3, 4), conv_norm(16, 24, 3, 2)
        self.last, self.scale = conv_norm(24, 24, 3, 2), nn.Parameter(5 + torch.rand(1, 24, 1, 1))
        self.boxes = nn.ModuleList(nn.Conv2d(24, 12, 3, padding=1) for _ in range(2))
        self.classes = nn.ModuleList(nn.Conv2d(24, 15, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.body(self.early(x))
        maps = [F.normalize(first, dim=1) * self.scale, self.last(first)]
        pairs = list(zip(maps, self.boxes, strict=True))
        boxes = [head(m).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for m, head in pairs]
        pairs = list(zip(maps, self.classes, strict=True))
        scores = [head(m).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 5)) for m, head in pairs]
        return torch.cat(boxes, 1), torch.cat(scores, 1).softmax(-1)


def super_resolution() -> nn.Module:
    """Pixel shuffle."""
    body = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1), nn.PReLU(), nn.Conv2d(16, 12, 3, padding=1)
    )
    return Staged(
        nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.PReLU()), body, nn.PixelShuffle(2)
    )


def conv1d() -> nn.Module:
    """A signal of 120 steps and 3 channels: strides that do not divide, ceil_mode, dilation."""
    early = nn.Sequential(nn.Conv1d(3, 12, 9, 2, 3), nn.BatchNorm1d(12), nn.ReLU())
    body = nn.Sequential(
        nn.MaxPool1d(3, 2, ceil_mode=True), nn.Conv1d(12, 16, 5, padding=4, dilation=2),
        nn.BatchNorm1d(16), nn.ReLU(), nn.AvgPool1d(3, 2, 1), nn.Conv1d(16, 24, 3), nn.GELU(),
    )  # fmt: skip
    head = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 6))
    return Staged(early, body, head)


def conv3d() -> nn.Module:
    """A video of 8 frames of 32x32."""
    early = nn.Sequential(
        nn.Conv3d(3, 8, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False), nn.BatchNorm3d(8), nn.ReLU()
    )
    body = nn.Sequential(
        nn.MaxPool3d(3, 2, 1), nn.Conv3d(8, 16, 3, 2, 1), nn.BatchNorm3d(16), nn.ReLU(),
        nn.AvgPool3d((1, 2, 2)), nn.Conv3d(16, 16, 1, groups=2), nn.ReLU(),
    )  # fmt: skip
    head = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 6))
    return Staged(early, body, head)


def padded() -> nn.Module:
    """Paddings by reflection, replication, wrapping and zeros, asymmetric ones too."""
    early = nn.Sequential(nn.ReflectionPad2d((1, 2, 3, 0)), nn.Conv2d(3, 12, 3, 2), nn.ReLU())
    body = nn.Sequential(
        nn.ReplicationPad2d((2, 0, 1, 1)), nn.Conv2d(12, 16, 3, 2), nn.ReLU(),
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(16, 16, 3, 2),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.PixelUnshuffle(2),
    )  # fmt: skip
    return Staged(early, body, pooled_head(64))


MAPS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unet": (UNet, (3, 64, 64)),
    "unet_resize": (UNetResize, (3, 64, 64)),
    "fcn": (fcn, (3, 64, 64)),
    "deeplab": (deeplab, (3, 64, 64)),
    "yolo": (Yolo, (3, 64, 64)),
    "ssd": (Ssd, (3, 64, 64)),
    "super_resolution": (super_resolution, (3, 24, 24)),
    "conv1d": (conv1d, (3, 120)),
    "conv3d": (conv3d, (3, 8, 32, 32)),
    "padded": (padded, (3, 64, 64)),
}
"""Builders and input shapes by name."""
