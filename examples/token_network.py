"""A small network of tokens on the demo's scenes, for the methods that ask for attention.

It is none of the demo's own: the package goes without it, and needs no framework for what it has.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gradcam_multi.demo import CLASSES

WEIGHTS = Path(__file__).with_name("tokens.npz")
STEM = (3, 24, 48, 64)
GRID, HEADS, BLOCKS = 12, 4, 3
WIDTH = STEM[-1]


class Attention(nn.Module):
    """Self-attention of several heads, by PyTorch's fused function."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each of the tokens (N, T, C) takes from all of them."""
        n, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        found = functional.scaled_dot_product_attention(q, k, v)
        return self.out(found.transpose(1, 2).reshape(n, tokens, WIDTH))


class Block(nn.Module):
    """Normalise, attend, add; normalise, two dense layers, add."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (N, T, C) with what was found added."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TokenNetwork(nn.Module):
    """Convolutions down to 12 x 12 tokens, a class token, blocks; the class token is classified.

    `normalised` puts a batch normalisation behind each convolution, as it is trained.
    """

    def __init__(self, *, normalised: bool = False) -> None:
        super().__init__()
        self.stem = stem(normalised=normalised)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + GRID * GRID, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images (N, 3, 96, 96) in [0, 1]."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def stem(*, normalised: bool) -> nn.Sequential:
    """Build the convolutions, each of which halves the grid."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, channels in enumerate(pairwise(STEM), start=1):
        layers[f"conv{number}"] = nn.Conv2d(*channels, 3, stride=2, padding=1)
        if normalised:
            layers[f"norm{number}"] = nn.BatchNorm2d(channels[1])
        layers[f"relu{number}"] = nn.ReLU()
    return nn.Sequential(layers)


def load_token_network() -> TokenNetwork:
    """Load the network that examples/train_tokens.py trained."""
    with np.load(WEIGHTS) as file:
        return with_weights({name: file[name] for name in file.files})


def with_weights(weights: Mapping[str, NDArray[np.float16]]) -> TokenNetwork:
    """Return a network with the normalisations folded, and these weights, in float32."""
    model = TokenNetwork()
    model.load_state_dict({key: torch.from_numpy(value).float() for key, value in weights.items()})
    return model.eval()
