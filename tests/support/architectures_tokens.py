"""Token models as libraries write them, small; what their default layer is, beside each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from architectures_attention import EncoderBlock
from torch import Tensor, nn

WIDTH = 32


class Patches(nn.Module):
    """Patches of 8x8 as tokens, behind further ones of their own; learned positions."""

    def __init__(self, grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, 8, 8)
        self.prefix = nn.Parameter(torch.randn(1, prefix, WIDTH))
        self.positions = nn.Parameter(0.5 * torch.randn(1, prefix + grid[0] * grid[1], WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x).flatten(2).transpose(1, 2)
        return torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], 1) + self.positions


class Deit(nn.Module):
    """A class and a distillation token, each with a classifier; the mean of the two."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.patches = Patches(grid, 2)
        self.blocks = nn.Sequential(*(EncoderBlock(WIDTH, fused=True) for _ in range(3)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head, self.head_dist = nn.Linear(WIDTH, 10), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.patches(x)))
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2


class Encoder(nn.Module):
    """PyTorch's own encoder layers, the batch in front or the sequence; a class token."""

    def __init__(self, *, batch_first: bool, norm_first: bool, stacked: bool = False) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.patches = Patches((4, 4), 1)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 48, batch_first=batch_first, norm_first=norm_first
        )
        layers = [
            nn.TransformerEncoderLayer(WIDTH, 2, 48, batch_first=batch_first, norm_first=norm_first)
            for _ in range(3)
        ]
        self.layers = (
            nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
            if stacked
            else nn.Sequential(*layers)
        )
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        if self.batch_first:
            return self.head(self.layers(x)[:, 0])
        return self.head(self.layers(x.permute(1, 0, 2))[0])


class ClassBlock(nn.Module):
    """Only the class token asks (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.q = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.kv, self.proj = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, token: Tensor, x: Tensor) -> Tensor:
        y = self.norm(torch.cat([token, x], 1))
        k, v = self.kv(y).chunk(2, -1)
        weights = (self.q(y[:, :1]) @ k.transpose(1, 2) / WIDTH**0.5).softmax(-1)
        return token + self.proj(weights @ v)


class Cait(nn.Module):
    """Blocks of patch tokens, then two in which the class token alone attends."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches((4, 4), 0)
        self.blocks = nn.Sequential(EncoderBlock(WIDTH), EncoderBlock(WIDTH))
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.class1, self.class2 = ClassBlock(), ClassBlock()
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patches(x))
        token = self.class1(self.token.expand(x.shape[0], -1, -1), x)
        return self.head(self.class2(token, x)[:, 0])


class AttentionPool(nn.Module):
    """Convolutions, then one attention by which their mean asks all cells (CLIP's ResNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, WIDTH, 8, 8), nn.ReLU())
        self.attention = nn.MultiheadAttention(WIDTH, 2)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x])
        pooled, _ = self.attention(x[:1], x, x, need_weights=False)
        return self.head(pooled[0])


class Blind(nn.Module):
    """A last block in which no token sees another: nothing of the patches reaches the score."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches((4, 4), 1)
        self.block1, self.block2 = EncoderBlock(WIDTH), EncoderBlock(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, 10)
        self.register_buffer("mask", torch.eye(17, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.patches(x)))
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + F.scaled_dot_product_attention(q, k, v, self.mask)
        return self.head(x[:, 0])


@dataclass(frozen=True)
class TokenModel:
    """How to build it, the size of its input, and the default layer with its grid."""

    build: Callable[[], nn.Module]
    layer: str
    size: tuple[int, int] = (32, 32)
    grid: tuple[int, int] = (4, 4)


TOKENS = {
    "deit": TokenModel(lambda: Deit((4, 4)), "blocks.1"),
    "deit_wide": TokenModel(lambda: Deit((3, 6)), "blocks.1", (24, 48), (3, 6)),
    "encoder": TokenModel(lambda: Encoder(batch_first=True, norm_first=True), "layers.1"),
    "encoder_after": TokenModel(
        lambda: Encoder(batch_first=True, norm_first=False), "layers.1.norm2"
    ),
    "encoder_sequence_first": TokenModel(
        lambda: Encoder(batch_first=False, norm_first=True), "layers.1"
    ),
    "encoder_stacked": TokenModel(
        lambda: Encoder(batch_first=True, norm_first=False, stacked=True), "layers.layers.1.norm2"
    ),
    "cait": TokenModel(Cait, "blocks.1"),
    "attention_pool": TokenModel(AttentionPool, "body.1"),
}
"""By name; `blocks.1` is the second of three, what enters the last one."""
