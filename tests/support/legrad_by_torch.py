"""Gradients of PyTorch's token models with every attention's weights written out, in float64."""

from functools import partial

import torch
from architectures_attention import VisionTransformer
from architectures_tokens import Deit, Encoder


def by_autograd(module, x, chosen):
    """dS/dA of each block, (N, heads, T, T), of a module in float64."""
    module = module.double().eval()
    tokens, blocks, head = parts(module)
    found = []
    z = tokens(torch.from_numpy(x).double())
    for block in blocks:
        kept = []
        z = block(z, kept)
        (a,) = kept
        (gradient,) = torch.autograd.grad(head(z)[:, chosen].sum(), a, retain_graph=True)
        found.append(gradient.numpy())
    module.float()
    return found


def parts(module):
    """What makes a module's tokens, its blocks with weights written out, and what reads them."""
    if isinstance(module, VisionTransformer):

        def tokens(x):
            x = module.patches(x).flatten(2).transpose(1, 2)
            if module.token is not None:
                x = torch.cat([module.token.expand(len(x), -1, -1), x], 1)
            return x + module.positions

        def head(z):
            z = module.norm(z)
            return module.head(z.mean(1) if module.token is None else z[:, 0])

        blocks = (module.early, module.last, module.block)
        return tokens, [partial(encoder_block, block) for block in blocks], head
    if isinstance(module, Deit):

        def both(z):
            z = module.norm(z)
            return (module.head(z[:, 0]) + module.head_dist(z[:, 1])) / 2

        return module.patches, [partial(encoder_block, block) for block in module.blocks], both
    assert isinstance(module, Encoder)
    layers = getattr(module.layers, "layers", module.layers)
    own = [partial(torch_layer, layer) for layer in layers]
    return module.patches, own, lambda z: module.head(z[:, 0])


def encoder_block(block, z, kept):
    qkv = block.attention.qkv(block.norm1(z))
    z = z + block.attention.out(written_out(qkv, block.attention.heads, kept))
    return z + block.mlp(block.norm2(z))


def torch_layer(layer, z, kept):
    """One nn.TransformerEncoderLayer, whichever place its normalisations have."""
    own = layer.self_attn

    def attention(x):
        qkv = torch.nn.functional.linear(x, own.in_proj_weight, own.in_proj_bias)
        return own.out_proj(written_out(qkv, own.num_heads, kept))

    def dense(x):
        return layer.linear2(layer.activation(layer.linear1(x)))

    if layer.norm_first:
        z = z + attention(layer.norm1(z))
        return z + dense(layer.norm2(z))
    z = layer.norm1(z + attention(z))
    return layer.norm2(z + dense(z))


def written_out(qkv, heads, kept):
    """The result of an attention, (N, T, C), its weights kept."""
    n, tokens, width = qkv.shape
    q, k, v = (
        x.reshape(n, tokens, heads, -1).transpose(1, 2) for x in qkv.chunk(3, -1)
    )  # (N, heads, T, D)
    a = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, -1)
    kept.append(a)
    return (a @ v).transpose(1, 2).reshape(n, tokens, width // 3)
