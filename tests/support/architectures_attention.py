"""Transformers and their convolutional relatives, small; all take (N, 3, 64, 64)."""

import torch
import torch.nn.functional as F
from architectures_classic import Residual, Staged, conv_norm, pooled_head
from architectures_mobile import inverted
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention with its matrix products written out, or by PyTorch's fused function."""

    def __init__(self, width: int, heads: int = 2, *, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v, bias)
        else:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            x = (scores if bias is None else scores + bias).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(n, tokens, width))


class EncoderBlock(nn.Module):
    """Normalise, attend, add; normalise, two dense layers, add."""

    def __init__(self, width: int, *, fused: bool = False) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, fused=fused)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches of 16x16, a class token, learned positions; `last` is a block's own result."""

    def __init__(self, width: int = 32, *, fused: bool = False, token: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width)) if token else None
        self.positions = nn.Parameter(0.5 * torch.randn(1, 16 + token, width))
        self.early, self.last = EncoderBlock(width, fused=fused), EncoderBlock(width, fused=fused)
        self.block = EncoderBlock(width, fused=fused)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.block(self.last(self.early(x + self.positions))))
        return self.head(x.mean(1) if self.token is None else x[:, 0])


def vit() -> nn.Module:
    """A class token, attention as matrix products."""
    return VisionTransformer()


def vit_pooled() -> nn.Module:
    """The mean of all tokens, attention by PyTorch's fused function."""
    return VisionTransformer(fused=True, token=False)


class SwinBlock(nn.Module):
    """Attention within windows of 4x4, shifted by rolling, with a relative bias and a mask."""

    def __init__(self, width: int, grid: int, shift: int) -> None:
        super().__init__()
        self.shift, self.window = shift, 4
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width)
        self.bias = nn.Parameter(torch.randn(49, 2))
        place = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
        offset = place.flatten(1)[:, :, None] - place.flatten(1)[:, None] + 3
        self.register_buffer("index", offset[0] * 7 + offset[1])
        label = torch.zeros(1, grid, grid, 1)
        if shift:
            label[:, -shift:] += 1
            label[:, :, -shift:] += 2
        parts = self.split(label)[..., 0]
        mask = (parts[:, None] != parts[:, :, None]).float() * -100
        self.register_buffer("mask", mask[:, None])
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def split(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, 16, c)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        bias = self.bias[self.index].permute(2, 0, 1)[None] + self.mask.repeat(n, 1, 1, 1)
        y = self.attention(self.split(y), bias).view(n, h // 4, w // 4, 4, 4, c)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    """Two stages of shifted windows with patch merging by strided slices."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.early = nn.Sequential(SwinBlock(width, 16, 0), SwinBlock(width, 16, 2))
        self.merge = nn.Sequential(nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width))
        self.last, self.block = SwinBlock(2 * width, 8, 0), SwinBlock(2 * width, 8, 2)
        self.norm, self.head = nn.LayerNorm(2 * width), nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(self.patches(x).permute(0, 2, 3, 1))
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = self.norm(self.block(self.last(self.merge(torch.cat(corners, -1)))))
        return self.head(x.mean((1, 2)))


class LayerNorm2d(nn.LayerNorm):
    """Over channels, channels first, by permuting."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, layer normalisation, dense layers over channels, a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(torch.randn(width))  # published ones start at 1e-6: it hides all

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.conv(x).permute(0, 2, 3, 1)))
        return x + (self.scale * y).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """Patches, normalised downsampling, blocks."""
    early = nn.Sequential(nn.Conv2d(3, 16, 4, 4), LayerNorm2d(16), ConvNextBlock(16))
    body = nn.Sequential(LayerNorm2d(16), nn.Conv2d(16, 32, 2, 2), ConvNextBlock(32))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), LayerNorm2d(32), nn.Flatten(), nn.Linear(32, 10))
    return Staged(early, body, head)


class TokenMixing(nn.Module):
    """Attention over the cells of a feature map, as hybrids have it; group-normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(4, width), Attention(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return y.transpose(1, 2).reshape(x.shape)


def coatnet() -> nn.Module:
    """Inverted residuals first, attention over the grid later."""
    mixing = Residual(TokenMixing(32), nn.Identity(), nn.Identity())
    body = nn.Sequential(inverted(16, 32, 32, 3, 2, nn.SiLU, nn.Sigmoid), mixing)
    return Staged(conv_norm(3, 16, 3, 4, act=nn.GELU), body, pooled_head(32))


class MixerBlock(nn.Module):
    """Dense layers over tokens, then over channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 24), nn.GELU(), nn.Linear(24, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class TokenMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def mixer() -> nn.Module:
    """MLP-Mixer."""
    early = nn.Sequential(nn.Conv2d(3, 32, 16, 16), Tokens(), MixerBlock(16, 32))
    head = nn.Sequential(nn.LayerNorm(32), TokenMean(), nn.Linear(32, 10))
    return Staged(early, MixerBlock(16, 32), head)


def swin() -> nn.Module:
    """Shifted windows."""
    return Swin()


ATTENTION = {build.__name__: build for build in (vit, vit_pooled, swin, convnext, coatnet, mixer)}
"""Builders by name."""
